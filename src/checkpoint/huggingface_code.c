/* huggingface_code.c: see huggingface_code.h. */
#include "huggingface_code.h"

/* The assembler puts a file's bytes in as they are, whatever is in them; the Makefile has this object hang on them. */
#define EMBED(symbol, path)                                                                                       \
    __asm__(".pushsection .rodata\n" #symbol ": .incbin \"" path "\"\n" #symbol "_end: .byte 0\n.popsection\n"); \
    extern const char symbol[] __attribute__((visibility("hidden"))), \
        symbol##_end[] __attribute__((visibility("hidden")))

EMBED(huggingface_configuration, "scripts/hf/configuration_train_gpt.py");
EMBED(huggingface_modeling, "scripts/hf/modeling_train_gpt.py");

const HuggingfaceCode HUGGINGFACE_CODE[HUGGINGFACE_CODE_FILES] = {
    {"configuration_train_gpt.py", huggingface_configuration, huggingface_configuration_end},
    {"modeling_train_gpt.py", huggingface_modeling, huggingface_modeling_end},
};

void huggingface_code_map(cJSON *config) {
    cJSON *map = cJSON_AddObjectToObject(config, "auto_map");
    cJSON_AddStringToObject(map, "AutoConfig", "configuration_train_gpt.TrainGptConfig");
    cJSON_AddStringToObject(map, "AutoModel", "modeling_train_gpt.TrainGptModel");
    cJSON_AddStringToObject(map, "AutoModelForCausalLM", "modeling_train_gpt.TrainGptForCausalLM");
}
