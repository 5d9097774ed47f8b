/* SPDX-License-Identifier: MIT */
/*
 * The bits of one bitmap: pages in memory over a table in the file.
 *
 * A page is made by whoever sets the first bit in it, and stays until the gate is closed; a bit is
 * only ever set meanwhile. So a page's pointer changes once, from NULL, and its words grow by
 * atomic or. A page with all bits set from the start takes no memory.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/entry.h"
#include "meta/bitmap.h"

static const uint64_t full_page;
#define PAGE_FULL ((uint64_t *)(uintptr_t)&full_page)

static uint64_t npages_of(const struct meta_bitmap *b)
{
	return div_ceil(b->nbits, META_BITMAP_PAGE_BITS);
}

static uint64_t nbits_of(const struct meta_bitmap *b, uint64_t size_bytes)
{
	return div_ceil(size_bytes, meta_bitmap_granularity(b));
}

struct meta_bitmap *meta_bitmap_new(uint64_t size_bytes, uint32_t granularity_bits)
{
	struct meta_bitmap *b = mem_zalloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->rec.granularity_bits = (uint8_t)granularity_bits;
	b->nbits = nbits_of(b, size_bytes);
	return b;
}

void meta_bitmap_free(struct meta_bitmap *b)
{
	if (!b)
		return;
	meta_bitmap_drop_pages(b);
	mem_free(b->table);
	format_bitmap_release(&b->rec);
	mem_free(b);
}

/* ---- pages ---- */

static uint64_t *page_at(const struct meta_bitmap *b, uint64_t idx)
{
	uint64_t **pages = __atomic_load_n(&b->pages, __ATOMIC_ACQUIRE);

	return pages ? __atomic_load_n(&pages[idx], __ATOMIC_ACQUIRE) : NULL;
}

static void free_page(uint64_t *page)
{
	if (page != PAGE_FULL)
		mem_free(page);
}

void meta_bitmap_drop_pages(struct meta_bitmap *b)
{
	for (uint64_t i = 0; b->pages && i < npages_of(b); i++)
		free_page(b->pages[i]);
	mem_free(b->pages);
	b->pages = NULL;
}

static uint64_t **want_pages(struct meta_bitmap *b)
{
	uint64_t **pages = __atomic_load_n(&b->pages, __ATOMIC_ACQUIRE);
	uint64_t **mine;

	if (pages)
		return pages;
	mine = mem_zalloc(npages_of(b), sizeof(*mine));
	if (!mine || __atomic_compare_exchange_n(&b->pages, &pages, mine, false, __ATOMIC_ACQ_REL,
						 __ATOMIC_ACQUIRE))
		return mine;
	mem_free(mine); /* another thread was first */
	return pages;
}

/* Puts a page in its place; the one that is there, if somebody was first. */
static uint64_t *install(uint64_t **slot, uint64_t *page)
{
	uint64_t *there = NULL;

	if (__atomic_compare_exchange_n(slot, &there, page, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE))
		return page;
	free_page(page);
	return there;
}

static uint64_t *want_page(struct meta_bitmap *b, uint64_t idx, bool full)
{
	uint64_t **pages = want_pages(b);
	uint64_t *page = pages ? __atomic_load_n(&pages[idx], __ATOMIC_ACQUIRE) : NULL;

	if (!pages || page)
		return page;
	page = full ? PAGE_FULL : mem_zalloc(META_BITMAP_PAGE_WORDS, sizeof(*page));
	return page ? install(&pages[idx], page) : NULL;
}

/* ---- setting ---- */

static void set_word(uint64_t *word, uint64_t bits)
{
	/* most are set already, and then the line needn't be ours */
	if ((__atomic_load_n(word, __ATOMIC_RELAXED) & bits) != bits)
		__atomic_fetch_or(word, bits, __ATOMIC_RELAXED);
}

/* Bits [first, last] of a page. */
static void set_in_page(uint64_t *page, unsigned first, unsigned last)
{
	unsigned from = first / 64, to = last / 64;
	uint64_t head = UINT64_MAX << (first % 64);
	uint64_t tail = UINT64_MAX >> (63 - last % 64);

	if (from == to) {
		set_word(&page[from], head & tail);
		return;
	}
	set_word(&page[from], head);
	for (unsigned i = from + 1; i < to; i++)
		set_word(&page[i], UINT64_MAX);
	set_word(&page[to], tail);
}

static int set_bits(struct meta_bitmap *b, uint64_t first, uint64_t last)
{
	while (first <= last) {
		uint64_t idx = first / META_BITMAP_PAGE_BITS;
		uint64_t start = idx * META_BITMAP_PAGE_BITS;
		uint64_t to = min_u64(last, start + META_BITMAP_PAGE_BITS - 1);
		bool full = first == start &&
			    (to == b->nbits - 1 || to == start + META_BITMAP_PAGE_BITS - 1);
		uint64_t *page = want_page(b, idx, full);

		if (!page)
			return -ENOMEM;
		if (page != PAGE_FULL)
			set_in_page(page, (unsigned)(first - start), (unsigned)(to - start));
		first = to + 1;
	}
	return 0;
}

int meta_bitmap_set(struct meta_bitmap *b, uint64_t guest_off, uint64_t len_bytes)
{
	if (len_bytes == 0)
		return 0;
	return set_bits(b, guest_off >> b->rec.granularity_bits,
			(guest_off + len_bytes - 1) >> b->rec.granularity_bits);
}

static int add_page(struct meta_bitmap *b, uint64_t idx, const uint64_t *from)
{
	uint64_t *page = want_page(b, idx, false);

	if (!page)
		return -ENOMEM;
	for (size_t i = 0; page != PAGE_FULL && i < META_BITMAP_PAGE_WORDS; i++)
		set_word(&page[i], from[i]);
	return 0;
}

int meta_bitmap_add(struct meta_bitmap *b, const struct meta_bitmap *other)
{
	int ret = 0;

	for (uint64_t i = 0; ret == 0 && i < npages_of(other); i++) {
		uint64_t first = i * META_BITMAP_PAGE_BITS;
		const uint64_t *page = page_at(other, i);

		if (page == PAGE_FULL)
			ret = set_bits(b, first,
				       min_u64(first + META_BITMAP_PAGE_BITS, b->nbits) - 1);
		else if (page)
			ret = add_page(b, i, page);
	}
	return ret;
}

void meta_bitmap_clear(struct meta_bitmap *b)
{
	meta_bitmap_drop_pages(b);
	b->table_bits = 0;
	b->changed = true;
}

/* Clears what a page has behind the end. -ENOMEM: nothing happened. */
static int cut_page(uint64_t **page, unsigned nbits)
{
	uint64_t *p = *page;

	if (p == PAGE_FULL) { /* the bits that there will be may not be set */
		p = mem_alloc(META_BITMAP_PAGE_WORDS, sizeof(*p));
		if (!p)
			return -ENOMEM;
		memset(p, 0xff, META_BITMAP_PAGE_BYTES);
		*page = p;
	}
	for (unsigned i = nbits / 64; i < META_BITMAP_PAGE_WORDS; i++)
		p[i] &= i == nbits / 64 ? (1ull << (nbits % 64)) - 1 : 0;
	return 0;
}

/* Room for more pages. */
static int grow_pages(struct meta_bitmap *b, uint64_t npages)
{
	uint64_t old = npages_of(b);
	uint64_t **pages;

	if (!b->pages || npages <= old)
		return 0;
	pages = mem_realloc(b->pages, npages, sizeof(*pages));
	if (!pages)
		return -ENOMEM;
	memset(pages + old, 0, (npages - old) * sizeof(*pages));
	b->pages = pages;
	return 0;
}

int meta_bitmap_resize(struct meta_bitmap *b, uint64_t size_bytes)
{
	uint64_t nbits = nbits_of(b, size_bytes), kept = min_u64(nbits, b->nbits);
	uint64_t npages = div_ceil(nbits, META_BITMAP_PAGE_BITS);
	uint64_t last = kept / META_BITMAP_PAGE_BITS;
	unsigned in_last = (unsigned)(kept % META_BITMAP_PAGE_BITS);

	if (nbits == b->nbits)
		return 0;
	if (grow_pages(b, npages) < 0)
		return -ENOMEM;
	if (b->pages && in_last && b->pages[last] && cut_page(&b->pages[last], in_last) < 0)
		return -ENOMEM;
	for (uint64_t i = npages; b->pages && i < npages_of(b); i++)
		free_page(b->pages[i]);
	b->nbits = nbits;
	b->table_bits = min_u64(b->table_bits, nbits);
	b->changed = true;
	return 0;
}

bool meta_bitmap_has_pages(const struct meta_bitmap *b, uint64_t first, uint64_t n)
{
	uint64_t end = min_u64(div_ceil(first + n, META_BITMAP_PAGE_BITS), npages_of(b));

	for (uint64_t i = first / META_BITMAP_PAGE_BITS; b->pages && i < end; i++) {
		if (page_at(b, i))
			return true;
	}
	return false;
}

/* ---- the table ---- */

static int read_table(const struct meta *m, const struct meta_bitmap *b, uint64_t *table,
		      struct qcow2_error *err)
{
	uint64_t len = (uint64_t)b->rec.table_entries * sizeof(*table);
	cleanup_free uint8_t *bytes = NULL;
	size_t got;
	int ret = meta_read_table(m, b->rec.table_off, len, &bytes, &got, err);

	if (ret < 0)
		return ret;
	if (got < len)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, b->rec.table_off,
				    "the table of bitmap \"%s\" at 0x%" PRIx64
				    " passes the end of the file",
				    b->rec.name, b->rec.table_off);
	for (uint32_t i = 0; i < b->rec.table_entries; i++) {
		table[i] = load_be64(bytes + (size_t)i * sizeof(*table));
		if (format_bitmap_entry_decode(&m->geometry, table[i]).faults)
			return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET,
					    b->rec.table_off + i * sizeof(*table),
					    "the table of bitmap \"%s\" has the impossible entry "
					    "0x%016" PRIx64,
					    b->rec.name, table[i]);
	}
	return 0;
}

int meta_bitmap_table(const struct meta *m, struct meta_bitmap *b, const uint64_t **table,
		      struct qcow2_error *err)
{
	uint64_t *there = __atomic_load_n(&b->table, __ATOMIC_ACQUIRE);
	cleanup_free uint64_t *mine = NULL;
	int ret;

	*table = there;
	if (there || !b->stored)
		return 0;
	mine = mem_alloc(b->rec.table_entries, sizeof(*mine));
	if (!mine)
		return error_errno(err, -ENOMEM, "can't read a bitmap");
	ret = read_table(m, b, mine, err);
	if (ret < 0)
		return ret;
	*table = mine;
	if (__atomic_compare_exchange_n(&b->table, &there, mine, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE))
		mine = NULL;
	else
		*table = there;
	return 0;
}

/* ---- both together ---- */

/* What the table says of bytes [pos, pos + len), which lie in one cluster. */
static int read_piece(const struct meta *m, struct meta_bitmap *b, uint64_t pos, size_t len,
		      uint8_t *bytes, struct qcow2_error *err)
{
	const uint64_t cs = m->geometry.cluster_size;
	struct format_bitmap_entry e = {0};
	const uint64_t *table = NULL;
	int ret = 0;

	if (pos * 8 < b->table_bits)
		ret = meta_bitmap_table(m, b, &table, err);
	if (table)
		e = format_bitmap_entry_decode(&m->geometry, table[pos / cs]);
	if (ret == 0 && e.host_off)
		return storage_read(m->file, bytes, len, e.host_off + (pos & (cs - 1)), err);
	memset(bytes, e.all_ones ? 0xff : 0, len);
	return ret;
}

/* Clears the bits of bytes [pos, pos + len) from nbits on. */
static void cut_bytes(uint8_t *bytes, uint64_t pos, size_t len, uint64_t nbits)
{
	for (size_t i = 0; i < len; i++) {
		uint64_t first = (pos + i) * 8;

		if (first >= nbits)
			bytes[i] = 0;
		else if (nbits - first < 8)
			bytes[i] &= (uint8_t)((1u << (nbits - first)) - 1);
	}
}

static void add_words(uint8_t *bytes, const uint64_t *words, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t word = __atomic_load_n(&words[i], __ATOMIC_RELAXED);

		for (unsigned k = 0; word && k < 8; k++)
			bytes[i * 8 + k] |= (uint8_t)(word >> (8 * k));
	}
}

int meta_bitmap_bytes(const struct meta *m, struct meta_bitmap *b, uint64_t pos, size_t len,
		      uint8_t *bytes, struct qcow2_error *err)
{
	const uint64_t cs = m->geometry.cluster_size;
	const uint64_t *page = page_at(b, pos / META_BITMAP_PAGE_BYTES);
	int ret = 0;

	if (page == PAGE_FULL) {
		memset(bytes, 0xff, len);
		cut_bytes(bytes, pos, len, b->nbits);
		return 0;
	}
	for (size_t done = 0, n; ret == 0 && done < len; done += n) {
		uint64_t at = pos + done;

		n = (size_t)min_u64(len - done, cs - (at & (cs - 1)));
		ret = read_piece(m, b, at, n, bytes + done, err);
	}
	if (ret < 0)
		return ret;
	if (pos * 8 + len * 8 > b->table_bits)
		cut_bytes(bytes, pos, len, b->table_bits);
	if (page)
		add_words(bytes, page + pos % META_BITMAP_PAGE_BYTES / 8, len / 8);
	return 0;
}

/* ---- runs ---- */

/* Whether all bits of the page are the same, as far as the map alone tells: *value. */
static bool is_uniform(const struct meta *m, const struct meta_bitmap *b, const uint64_t *table,
		       uint64_t idx, bool *value)
{
	const uint64_t cs = m->geometry.cluster_size;
	uint64_t first = idx * META_BITMAP_PAGE_BITS, pos = idx * META_BITMAP_PAGE_BYTES;
	const uint64_t *page = page_at(b, idx);

	*value = page == PAGE_FULL;
	if (page)
		return *value;
	if (first >= b->table_bits || !table)
		return true;
	if (cs < META_BITMAP_PAGE_BYTES ||
	    b->table_bits < min_u64(first + META_BITMAP_PAGE_BITS, b->nbits))
		return false;
	*value = table[pos / cs] == LAYOUT_BITMAP_ENTRY_ALL_ONES;
	return *value || table[pos / cs] == 0;
}

/* How many bits from first on, up to end, are as the first one, in words; first < end. */
static unsigned same_bits(const uint8_t *bytes, unsigned first, unsigned end, bool *value)
{
	unsigned at = first;
	uint64_t flip;

	*value = bytes[first / 8] >> (first % 8) & 1;
	flip = *value ? UINT64_MAX : 0;
	while (at < end) {
		uint64_t word = (load_le64(bytes + at / 64 * 8) ^ flip) >> (at % 64);

		if (word)
			return min_u64(at + (unsigned)__builtin_ctzll(word), end) - first;
		at += 64 - at % 64;
	}
	return end - first;
}

/* The run of equal bits from bit on that ends in the same page, or at limit. */
static int run_in_page(const struct meta *m, struct meta_bitmap *b, uint64_t bit, uint64_t limit,
		       uint64_t *n, bool *value, struct qcow2_error *err)
{
	uint64_t idx = bit / META_BITMAP_PAGE_BITS, start = idx * META_BITMAP_PAGE_BITS;
	uint64_t end = min_u64(limit, start + META_BITMAP_PAGE_BITS);
	uint8_t bytes[META_BITMAP_PAGE_BYTES];
	const uint64_t *table = NULL;
	int ret = 0;

	if (b->table_bits > 0)
		ret = meta_bitmap_table(m, b, &table, err);
	*n = end - bit;
	if (ret < 0 || is_uniform(m, b, table, idx, value))
		return ret;
	ret = meta_bitmap_bytes(m, b, idx * META_BITMAP_PAGE_BYTES, sizeof(bytes), bytes, err);
	if (ret == 0)
		*n = same_bits(bytes, (unsigned)(bit - start), (unsigned)(end - start), value);
	return ret;
}

int meta_bitmap_run(const struct meta *m, struct meta_bitmap *b, uint64_t guest_off,
		    uint64_t len_bytes, uint64_t *run_bytes, bool *dirty, struct qcow2_error *err)
{
	const uint32_t shift = b->rec.granularity_bits;
	uint64_t first = guest_off >> shift;
	uint64_t limit = min_u64(((guest_off + len_bytes - 1) >> shift) + 1, b->nbits);
	uint64_t bit = first, n = 0;
	bool value = false;
	int ret = 0;

	while (bit < limit) {
		ret = run_in_page(m, b, bit, limit, &n, &value, err);
		if (ret < 0)
			return ret;
		if (bit == first)
			*dirty = value;
		if (value != *dirty)
			break;
		bit += n;
		if (bit < limit && bit % META_BITMAP_PAGE_BITS != 0)
			break;
	}
	*run_bytes = min_u64((bit << shift) - guest_off, len_bytes);
	return ret;
}
