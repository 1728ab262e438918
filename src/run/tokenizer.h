/*
 * tokenizer.h: which tokenizer made a run's data, has the model its ids, and which of its files do checkpoints carry?
 *
 * What data/prepare.py wrote beside the shards says it (data/sidecar.h). Data without that are taken as they are: then only
 * the ids themselves are checked, as they are read.
 *
 * The files are those of the training data; where these have none, those of the checkpoint that is gone on with or of the
 * directory of --init-from. A checkpoint keeps its own for as long as the tokenizer is the same one.
 */
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include "../checkpoint/companions.h"
#include "../data/sidecar.h"

typedef struct Tokenizer {
    SetFacts train, val;
    Companions files;
    char notice[2 * PATH_SIZE]; /* a line that the run should say; "": nothing */
} Tokenizer;

/* Before config_resolve(): --vocab-size auto becomes what the data say, where they do. Exit 2 where they contradict
 * themselves; what cannot be opened is left to who reads it. */
void tokenizer_settle_vocabulary(Config *config);

/* Before anything is opened: exit 2 for data whose tokenizer has more ids than the model. Those to train on only where the run
 * trains; what cannot be opened is left to who reads it. */
void tokenizer_check_vocabulary(const Config *config, bool resumes, bool trains);

/* What a run begins with, and where that lies; both NULL or "" for a fresh start. */
typedef struct Origin {
    const char *resume_from; /* a checkpoint's directory */
    const char *weights;     /* of --init-from: a directory or a file */
} Origin;

/* For a training; val may be NULL. Exit 2 for a validation by another tokenizer than the training's, for files that are not what NAME.json says. Reads the files only where `keeps`. */
void tokenizer_open(Tokenizer *tokenizer, const Config *config, const Origin *origin, const ShardSet *train, const ShardSet *val,
                    bool keeps);
void tokenizer_close(Tokenizer *tokenizer);

/* The sha256 of the tokenizer.json that lies with the weights; "" where there is none. */
void tokenizer_of_weights(const Origin *origin, char sha256[SHA256_HEX]);

/* For --eval-only; `trained` is the fingerprint of the data that the weights were
 * trained on, or NULL. */
void tokenizer_check_validation(const Config *config, const ShardSet *val, const char *trained);

#endif
