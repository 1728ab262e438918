/*
 * feed.h: batches on their way from the host to the device.
 *
 * Two buffers of pinned memory in turn: the host fills one while the device has yet to copy the other. The copies
 * run in the model's queue, between the micro-step before and the one that reads them: 0.5 MB for 65,536 tokens
 * is some ten microseconds of a micro-step of tens of milliseconds. A queue of their own would want the tokens
 * on the device twice, and a captured micro-step reads one fixed place.
 */
#ifndef FEED_H
#define FEED_H

#include "../model/model.h"

enum { FEED_SLOTS = 2 };

typedef struct Feed {
    Model *model;
    struct FeedSlot {
        uint32_t *tokens, *targets; /* [B·T] pinned */
        uint32_t *document_start, *position; /* likewise; NULL without --doc-mask */
        Event *copied;
    } slot[FEED_SLOTS];
    int turn;
} Feed;

/* Exit 1 where there is no memory for the buffers. */
void feed_create(Feed *feed, Model *model);
void feed_destroy(Feed *feed);

/* The buffers for the next batch, once the device has copied what was in them. */
struct FeedSlot *feed_open(Feed *feed);

/* Sends what feed_open() gave to the model (enqueued). */
void feed_send(Feed *feed);

#endif
