/* dnnl_debug.h: the words for a status (see dnnl.h beside this). */
#ifndef STANDALONE_DNNL_DEBUG_H
#define STANDALONE_DNNL_DEBUG_H

#include "dnnl.h"

static inline const char *dnnl_status2str(dnnl_status_t status) {
    return status == dnnl_success ? "success" : "out of memory";
}

#endif
