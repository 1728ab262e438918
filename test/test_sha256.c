/*
 * test_sha256.c: is it SHA-256, at every way in which a text can end in a block? (src/base/sha256.h)
 *
 * Hashes of FIPS 180-4's examples, and of i·7 mod 251 at lengths around the ends of blocks, by Python's hashlib.
 */
#include "../src/base/sha256.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void hashes_are_those_of_the_standard(void **state) {
    (void)state;
    static const struct {
        const char *text, *hex;
    } CASES[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    char hex[65];
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        sha256_hex(CASES[i].text, strlen(CASES[i].text), hex);
        assert_string_equal(hex, CASES[i].hex);
    }
}

static void every_end_of_a_block_is_right(void **state) {
    (void)state;
    static const struct {
        size_t size;
        const char *hex;
    } CASES[] = {
        {1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"},
        {55, "8af594de0e003fdee5c8bb088216c824349b4137070f559574f4a4bddd27b714"},
        {56, "db81bc2bfd43620591df192139062da77d4c376f1888ea3d2190bd07c8d901f9"},
        {57, "4d95ad65f5ec430c9a97ae9243b87d4d6fa0c474288c93cecfbfe9257e711780"},
        {63, "bd535b38bf0d0d1a09d370b7e34b2696cea3767801a45d5611a4aaa6954e8527"},
        {64, "292be91abe8c0909fe3d26575af5755eee74d23816dc68c3ba41765136967654"},
        {65, "ba65aedf7884642499a59ae124894611d986cf429e69f569488048af3a99e25a"},
        {119, "d367ab298e74477421127b0b448667c37c006c636f5738f081c39388756e5fad"},
        {120, "be7beb9c82089eb08da8fe6eb30c13b9d56869014e228a8c3eb0fdfe832efab2"},
        {128, "cb5311e1d7aa8e11d6af7081f3ffc3e4efa008c7483a1a791fe170bf37546ba7"},
        {1000003, "6e0aa3a3e4afdd717e6af8d151be7c532fce9607f2086e89d0136acffec3f3ae"},
    };
    char hex[65];
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        unsigned char *bytes = malloc(CASES[i].size); /* exactly: a sanitizer sees a byte beyond */
        for (size_t k = 0; k < CASES[i].size; k++) bytes[k] = (unsigned char)(k * 7 % 251);
        sha256_hex(bytes, CASES[i].size, hex);
        assert_string_equal(hex, CASES[i].hex);
        free(bytes);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hashes_are_those_of_the_standard),
        cmocka_unit_test(every_end_of_a_block_is_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
