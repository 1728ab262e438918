/* safetensors_rules.h: what an accepted safetensors file must be. Each ends the process where it is not. */
#ifndef SAFETENSORS_RULES_H
#define SAFETENSORS_RULES_H

#include "../../src/checkpoint/safetensors.h"

/* Names once, data without overlap or gap, sizes as their shapes say, numbers as they stand in the header. */
void safetensors_check_rules(const SafetensorsHeader *header, const uint8_t *bytes, uint64_t file_size);

/* Any part of a tensor, read as anything, is that part of the whole. */
void safetensors_check_conversion(const SafetensorsFile *file, const SafetensorsTensor *tensor);

/* The same tensors, values and metadata, in whatever order. */
void safetensors_check_same(const SafetensorsFile *a, const SafetensorsFile *b);

#endif
