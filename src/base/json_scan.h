/*
 * json_scan.h: what cJSON lets pass and JSON does not have, found before cJSON sees it.
 *
 * cJSON takes "\uZZZZ" and "\u0000" for the end of a text, any byte below 33 for a blank, numbers such as 01 and
 * 1., texts that hold control characters or are not UTF-8, and a byte order mark.
 */
#ifndef JSON_SCAN_H
#define JSON_SCAN_H

#include <stddef.h>

/* From a text's opening quote at *at to its closing one: NULL, or what is wrong there, with *at where. */
const char *json_scan_string(const unsigned char *text, size_t size, size_t *at);

/* The same of a number, from its first byte to its last. */
const char *json_scan_number(const unsigned char *text, size_t size, size_t *at);

/* Every text, number and blank of a whole file; the grammar between them is cJSON's. */
const char *json_scan(const unsigned char *text, size_t size, size_t *at);

#endif
