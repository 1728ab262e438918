"""Which files does a tokenizer travel as, beside the shards and in every checkpoint?

NAME.tokenizer/ holds tokenizer.json (the file that was given, byte for byte, or one that is made here),
tokenizer_config.json, with which transformers' AutoTokenizer takes the folder as it is, and token_bytes.safetensors
(token_bytes.py), where the tokenizer has such a table.
"""
import hashlib
import json

import token_bytes
from pretrained_tokenizer import as_json, gpt2_definition
from token_bytes import NoTable, byte_letters

# Of the tokenizer_config.json that lay beside the tokenizer: names of tokens, and how a chat is written.
TOKENS_CARRIED = ("bos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
SETTINGS_CARRIED = ("chat_template", "padding_side")


def bytes_definition():
    """A tokenizer.json in which byte b is id b. Byte 0, which ends a document, is its special token, under its own
    name, the character of code 0: so no other text has it, and nothing is lost."""
    letters = byte_letters()
    vocabulary = {letters[byte] if byte else "\0": byte for byte in range(256)}
    definition = gpt2_definition(vocabulary, [], ["\0"])
    for part in ("pre_tokenizer", "decoder"):
        definition[part]["use_regex"] = False
    return definition


def bytes_json():
    return as_json(bytes_definition())


def literal_of(token):
    """A token of a tokenizer_config.json: its text, or an object that holds it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def config_json(end, carried):
    """tokenizer_config.json; end: the literal of the control token that ends a document, or None."""
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if end is not None:
        config["eos_token"] = end
    for key in TOKENS_CARRIED:
        if literal_of(carried.get(key)):
            config[key] = literal_of(carried[key])
    for key in SETTINGS_CARRIED:
        if isinstance(carried.get(key), str):
            config[key] = carried[key]
    return json.dumps(config, indent=2).encode() + b"\n"


def tokenizer_files(encoder):
    """({name: bytes}, why there is no table of bytes, or None)."""
    files = {
        "tokenizer.json": encoder.tokenizer_json(),
        "tokenizer_config.json": config_json(encoder.end, encoder.settings),
    }
    try:
        table, strip = encoder.token_table()
    except NoTable as reason:
        return files, str(reason)
    files[token_bytes.NAME] = token_bytes.container(table, strip, encoder.eot)
    return files, None


def tokenizer_facts(encoder, files, separated):
    """What NAME.json says of it. separated: whether its end-of-text token stands between documents."""
    return {
        "tokenizer": encoder.name,
        "tokenizer_sha256": hashlib.sha256(files["tokenizer.json"]).hexdigest(),
        "end_of_document": encoder.eot if separated else None,
    }
