/* Writes addresses and tells which hosts are this one. Asks no resolver. */
#include "net/address.h"

#include <arpa/inet.h>

#include "net/websocket.h"

void address_format(const struct sockaddr *address, char ret_text[INET6_ADDRSTRLEN])
{
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)(const void *)address;
    const struct sockaddr_in *four = (const struct sockaddr_in *)(const void *)address;
    const char *written = NULL;

    if (address->sa_family == AF_INET)
        written = inet_ntop(AF_INET, &four->sin_addr, ret_text, INET6_ADDRSTRLEN);
    else if (address->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&six->sin6_addr))
        written = inet_ntop(AF_INET, &six->sin6_addr.s6_addr[12], ret_text, INET6_ADDRSTRLEN);
    else if (address->sa_family == AF_INET6)
        written = inet_ntop(AF_INET6, &six->sin6_addr, ret_text, INET6_ADDRSTRLEN);
    if (written == NULL)
        ret_text[0] = '\0';
}

bool host_is_loopback(const char *host)
{
    struct in_addr four;
    struct in6_addr six;

    if (strcasecmp(host, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, host, &four) == 1)
        return (ntohl(four.s_addr) >> 24) == 127;
    return inet_pton(AF_INET6, host, &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}
