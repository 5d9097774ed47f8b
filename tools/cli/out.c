/* SPDX-License-Identifier: MIT */
/* Text and JSON from the same calls. Knows indentation, commas and quotes, nothing of images. */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "cli/out.h"
#include "cli/utf8.h"

static void put_unit(FILE *f, unsigned unit)
{
	static const char named[] = "\bb\ff\nn\rr\tt\"\"\\\\";
	const char *found = NULL;
	size_t i;

	for (i = 0; i + 1 < sizeof(named); i += 2)
		if ((unsigned char)named[i] == unit)
			found = named + i;
	if (found)
		fprintf(f, "\\%c", found[1]);
	else if (unit >= 0x20 && unit < 0x7f)
		fputc((int)unit, f);
	else
		fprintf(f, "\\u%04X", unit);
}

void cli_json_put(FILE *f, const char *s)
{
	fputc('"', f);
	while (*s) {
		size_t nbytes;
		int32_t code = cli_utf8_next(s, &nbytes);

		s += nbytes;
		if (code < 0)
			code = 0xfffd;
		if (code >= 0x10000) {
			put_unit(f, 0xd800 + ((unsigned)(code - 0x10000) >> 10));
			put_unit(f, 0xdc00 + ((unsigned)code & 0x3ff));
		} else {
			put_unit(f, (unsigned)code);
		}
	}
	fputc('"', f);
}

void cli_out_init(struct cli_out *out, FILE *f, bool json)
{
	memset(out, 0, sizeof(*out));
	out->f = f;
	out->json = json;
}

static void put_key(FILE *f, const char *key)
{
	for (; *key; key++)
		fputc(*key == '-' ? ' ' : *key, f);
}

/* Everything in front of a value. is_leaf: the value goes on this line. */
static void begin(struct cli_out *out, const char *key, bool is_leaf)
{
	unsigned count = 0;
	char kind = 0;

	if (out->depth > 0) {
		kind = out->level[out->depth - 1].kind;
		count = out->level[out->depth - 1].count++;
	}
	if (out->json) {
		if (kind)
			fputs(count ? ",\n" : "\n", out->f);
		fprintf(out->f, "%*s", 4 * (int)out->depth, "");
		if (kind == '{') {
			cli_json_put(out->f, key);
			fputs(": ", out->f);
		}
		return;
	}
	if (!kind)
		return;
	fprintf(out->f, "%*s", 4 * ((int)out->depth - 1), "");
	if (kind == '[')
		fprintf(out->f, "[%u]", count);
	else
		put_key(out->f, key);
	fputs(is_leaf ? ": " : ":\n", out->f);
}

static void end(struct cli_out *out)
{
	if (!out->json || out->depth == 0)
		fputc('\n', out->f);
}

void cli_out_string(struct cli_out *out, const char *key, const char *value)
{
	begin(out, key, true);
	if (out->json)
		cli_json_put(out->f, value);
	else
		cli_text_put(out->f, value);
	end(out);
}

void cli_out_u64(struct cli_out *out, const char *key, uint64_t value)
{
	begin(out, key, true);
	fprintf(out->f, "%" PRIu64, value);
	end(out);
}

void cli_out_i64(struct cli_out *out, const char *key, int64_t value)
{
	begin(out, key, true);
	fprintf(out->f, "%" PRId64, value);
	end(out);
}

void cli_out_bool(struct cli_out *out, const char *key, bool value)
{
	begin(out, key, true);
	fputs(value ? "true" : "false", out->f);
	end(out);
}

void cli_out_open(struct cli_out *out, const char *key, char kind)
{
	assert(out->depth < CLI_OUT_DEPTH);
	begin(out, key, false);
	if (out->json)
		fputc(kind, out->f);
	out->level[out->depth].kind = kind;
	out->level[out->depth].count = 0;
	out->depth++;
}

void cli_out_close(struct cli_out *out)
{
	assert(out->depth > 0);
	out->depth--;
	if (!out->json)
		return;
	fprintf(out->f, "\n%*s%c", 4 * (int)out->depth, "",
		out->level[out->depth].kind == '{' ? '}' : ']');
	if (out->depth == 0)
		fputc('\n', out->f);
}
