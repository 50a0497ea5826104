/* Network addresses as text. Internal to net/. Pure. */
#ifndef NET_ADDRESS_H
#define NET_ADDRESS_H

#include <netinet/in.h>
#include <sys/socket.h>

/* "127.0.0.1", "::1"; an IPv4 address that came as IPv6 is written as IPv4; "" for other families. */
void address_format(const struct sockaddr *address, char ret_text[INET6_ADDRSTRLEN]);

#endif
