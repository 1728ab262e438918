/* config_rules.h: what a config must be, wherever it came from. */
#ifndef CONFIG_RULES_H
#define CONFIG_RULES_H

#include "../../src/settings/config.h"

#include <stdint.h>

/* Every value in the range of its row; and written as config.ini, it reads back as itself. `modes`: whether flags
 * such as --smoke may be set, which only the command line can. */
void fuzz_check_config(const Config *config, bool modes);

/* What an accepted file means does not change with a byte order mark before it, nor with _ for - in its names. */
void fuzz_check_spellings(const Config *config, const uint8_t *data, size_t size);

#endif
