/* SPDX-License-Identifier: MIT */
/* Arguments of the reading and writing commands. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/diag.h"
#include "io/cmd_args.h"
#include "io/text.h"

bool io_common_option(struct io_request *r, int letter, int *rc)
{
	switch (letter) {
	case 'C':
		r->machine = true;
		return true;
	case 'p':
		return true;
	case 'P':
		/* for a read it is what to compare with */
		r->check = !r->write;
		*rc = io_parse_pattern(optarg, &r->pattern);
		return true;
	case 'q':
		r->quiet = true;
		return true;
	case 'v':
		r->dump = true;
		return true;
	default:
		return false;
	}
}

int io_parse_range(struct io_request *r, char **words, enum io_limit limit)
{
	int rc = io_parse_number(words[0], &r->guest_off);

	if (rc == 0)
		rc = io_parse_number(words[1], &r->len_bytes);
	if (rc < 0 || limit == IO_NO_LIMIT || r->len_bytes <= IO_REQUEST_MAX)
		return rc;
	printf("length cannot exceed %" PRIu64 "%s, given %s\n", IO_REQUEST_MAX,
	       limit == IO_LIMIT_BUT_N ? " without -n" : "", words[1]);
	return -EINVAL;
}

static int parse_lengths(struct io_request *r, int nlens, char **words)
{
	int i;

	for (i = 0; i < nlens; i++) {
		uint64_t len;

		if (io_parse_number(words[i], &len) < 0)
			return -EINVAL;
		if (len > IO_REQUEST_MAX) {
			printf("Argument '%s' exceeds maximum size %" PRIu64 "\n", words[i],
			       IO_REQUEST_MAX);
			return -EINVAL;
		}
		if (len > IO_REQUEST_MAX - r->len_bytes) {
			printf("The total number of bytes exceed the maximum size %" PRIu64 "\n",
			       IO_REQUEST_MAX);
			return -EINVAL;
		}
		r->iov[i].iov_len = (size_t)len;
		r->len_bytes += len;
	}
	return 0;
}

int io_parse_vector(const struct io_command *self, struct io_request *r, int nwords, char **words)
{
	uint8_t *at;
	int i;

	if (nwords < 2)
		return io_misused(self);
	if (io_parse_number(words[0], &r->guest_off) < 0)
		return -EINVAL;
	r->niov = nwords - 1;
	r->iov = calloc((size_t)r->niov, sizeof(*r->iov));
	if (!r->iov) {
		cli_error("out of memory");
		return -ENOMEM;
	}
	if (parse_lengths(r, r->niov, words + 1) < 0 || io_request_buffer(r) < 0)
		return -EINVAL;
	at = r->buf;
	for (i = 0; i < r->niov; i++) {
		r->iov[i].iov_base = at;
		at += r->iov[i].iov_len;
	}
	r->check_len = r->len_bytes;
	return 0;
}
