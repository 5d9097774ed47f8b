/* SPDX-License-Identifier: MIT */
/* Threads for the requests of aio_*: started when needed, a few at most. */
#ifndef TOOLS_IO_POOL_H
#define TOOLS_IO_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "io/request.h"

/* NULL if there is no memory. */
struct io_pool *io_pool_new(void);

/* Nothing may be under way. NULL is allowed. */
void io_pool_free(struct io_pool *pool);

/* Takes the request over. It is carried out at once, or as soon as a thread is free. */
void io_pool_submit(struct io_pool *pool, struct io_request *request);

/* Tells, and frees, what is done by now. NULL is allowed. Returns whether there was something. */
bool io_pool_deliver(struct io_pool *pool);

/* Waits until all is done, and tells it. NULL is allowed. */
void io_pool_drain(struct io_pool *pool);

/* Waits so long, telling what gets done meanwhile. pool may be NULL. */
void io_pool_sleep(struct io_pool *pool, uint64_t ns);

/* Is a request under way, or waiting for a thread? pool may be NULL. */
bool io_pool_is_busy(struct io_pool *pool);

/* A file descriptor that can be read when there is something to deliver; -1: there is none. */
int io_pool_fd(const struct io_pool *pool);

#endif
