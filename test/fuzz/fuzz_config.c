/*
 * fuzz_config.c: does an accepted config file, written as config.ini, read back as the same config?
 * (src/settings/config.h)
 */
#include "fuzz.h"
#include "config_rules.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Config config;
    Error error = {0};
    config_defaults(&config);
    if (config_parse_lines(&config, fuzz_edge(data, size), size, &error)) {
        fuzz_check_config(&config, false);
        fuzz_check_spellings(&config, data, size);
    } else fuzz_check_error(&error);
    config_forget_texts();
    return 0;
}
