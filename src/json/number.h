/* A double as ECMAScript prints it (RFC 8785, 3.2.2.3). */
#ifndef JSON_NUMBER_H
#define JSON_NUMBER_H

enum { NUMBER_SIZE = 32 }; /* "-2.2250738585072014e-308" and the NUL fit */

/* `value` is finite. Independent of the locale. Any thread. */
void number_format(double value, char ret_text[NUMBER_SIZE]);

#endif
