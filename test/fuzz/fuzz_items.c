/*
 * fuzz_items.c: does a question that is accepted keep to what the model can be asked? (src/data/items.h)
 *
 * The first byte says what a model it is; the rest is a row.
 */
#include "fuzz.h"
#include "../../src/data/items.h"

static void check_lengths(const int *lengths, int choices) {
    for (int i = 0; lengths && i < choices; i++) PROMISE(lengths[i] >= 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint32_t identity[256];
    Item item;
    Error error = {0};
    for (uint32_t i = 0; i < 256; i++) identity[i] = i;
    if (size == 0) return 0;
    const bool bytes = data[0] & 1;
    const ItemRules rules = {.vocab = data[0] & 2 ? 100 : 256, .longest = data[0] & 4 ? 3 : 1000,
                             .id_of_byte = bytes ? identity : NULL, .prefix = 7};
    if (!item_parse(fuzz_edge(data + 1, size - 1), size - 1, &rules, &item, &error)) {
        fuzz_check_error(&error);
        PROMISE(!item.length && !item.tokens && !item.chars && !item.bytes);
        return 0;
    }
    PROMISE(fuzz_is_json(data + 1, size - 1, NULL));
    PROMISE(item.choices >= 1 && item.choices <= ITEM_CHOICES_MOST && item.answer >= 0 && item.answer < item.choices);
    PROMISE(item.context >= 1 && (!item.last_word || (item.choices == 1 && !item.chars && !item.bytes)));
    int count = item.context;
    for (int i = 0; i < item.choices; i++) {
        PROMISE(item.length[i] >= 1 && item.length[i] <= rules.longest);
        count += item.length[i];
    }
    for (int i = 0; i < count; i++) PROMISE(item.tokens[i] < rules.vocab);
    check_lengths(item.chars, item.choices);
    check_lengths(item.bytes, item.choices);
    item_free(&item);
    return 0;
}
