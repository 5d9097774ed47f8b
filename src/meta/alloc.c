/* SPDX-License-Identifier: MIT */
/*
 * Which host clusters are free: a bitmap, page by page, made from the refcounts when a search first
 * comes by. The search is QEMU's (section 10.1 of the reference), so that clusters lie where it
 * would have put them: first fit from a hint, several always in one piece, gaps that are too small
 * passed over until something below them is freed. A page costs its I/O once; after that a search
 * goes over words in memory.
 *
 * A bit is set from the moment a cluster is found until it has been given away; counts are not this
 * file's business. Invariant: a bit that is clear in a page that was looked at means a count of 0
 * that nobody is about to raise.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "base/num.h"
#include "meta/engine.h"

#define WORDS (META_PAGE_CLUSTERS / 64)
#define PAGES_WALKED_MAX 65536 /* to find the end of what is used: a sparse file may be endless */

int meta_alloc_init(struct meta *m, struct qcow2_error *err)
{
	struct meta_alloc *a = &m->engine->alloc;
	uint64_t size;
	int ret = storage_size(m->file, &size, err);

	if (ret < 0)
		return ret;
	a->in_file = div_ceil(size, m->geometry.cluster_size);
	a->end = m->engine->device ? 0 : a->in_file;
	a->fresh_from = m->engine->device ? UINT64_MAX : a->in_file;
	return 0;
}

void meta_alloc_release(struct meta_alloc *a)
{
	for (size_t i = 0; i < a->npages; i++)
		mem_free(a->pages[i]);
	mem_free(a->pages);
	pthread_mutex_destroy(&a->lock);
}

static void set_bits(struct meta_alloc_page *p, unsigned from, unsigned n, bool used)
{
	for (unsigned len; n > 0; from += len, n -= len) {
		uint64_t bits;

		len = (unsigned)min_u64(n, 64 - from % 64);
		bits = UINT64_MAX >> (64 - len) << (from % 64);
		if (used)
			p->used[from / 64] |= bits;
		else
			p->used[from / 64] &= ~bits;
	}
}

/* ---- looking at refcounts ---- */

/* Notes in page what the refcounts say. */
static int look_at_page(struct meta *m, uint64_t idx, struct meta_alloc_page *page,
			struct qcow2_error *err)
{
	if (idx == 0) /* the header, whatever is counted */
		set_bits(page, 0, 1, true);
	return meta_refs_look(m, idx * META_PAGE_CLUSTERS, META_PAGE_CLUSTERS, false, page->used,
			      err);
}

static bool is_known_locked(const struct meta_alloc *a, uint64_t idx)
{
	return idx < a->npages && a->pages[idx];
}

/* Room for the pages up to idx. */
static int grow_pages_locked(struct meta_alloc *a, uint64_t idx)
{
	struct meta_alloc_page **pages;
	uint64_t n = max_u64(idx + 1, a->npages + a->npages / 2);

	if (idx < a->npages)
		return 0;
	pages = mem_realloc(a->pages, n, sizeof(struct meta_alloc_page *));
	if (!pages)
		return -ENOMEM;
	for (size_t i = a->npages; i < n; i++)
		pages[i] = NULL;
	a->pages = pages;
	a->npages = n;
	return 0;
}

/* Makes page idx known. The lock is held, and dropped meanwhile. */
static int know_page_locked(struct meta *m, uint64_t idx, struct qcow2_error *err)
{
	struct meta_alloc *a = &m->engine->alloc;
	struct meta_alloc_page *page;
	int ret;

	if (is_known_locked(a, idx))
		return 0;
	pthread_mutex_unlock(&a->lock);
	page = mem_zalloc(1, sizeof(*page));
	ret = page ? look_at_page(m, idx, page, err)
		   : error_errno(err, -ENOMEM, "can't look for free clusters");
	pthread_mutex_lock(&a->lock);
	if (ret == 0 && grow_pages_locked(a, idx) < 0)
		ret = error_errno(err, -ENOMEM, "can't look for free clusters");
	/* somebody else may have been first: then things may have been found in his */
	if (ret == 0 && !a->pages[idx])
		a->pages[idx] = mem_steal(&page);
	mem_free(page);
	return ret;
}

/* ---- searching ---- */

/* From bit `from` of a page on: the first that is (or isn't) set; META_PAGE_CLUSTERS if none. */
static unsigned next_bit(const struct meta_alloc_page *p, unsigned from, bool used)
{
	for (unsigned w = from / 64; w < WORDS; w++) {
		uint64_t word = used ? p->used[w] : ~p->used[w];

		if (w == from / 64)
			word &= ~0ull << (from % 64);
		if (word)
			return w * 64 + (unsigned)__builtin_ctzll(word);
	}
	return META_PAGE_CLUSTERS;
}

/*
 * Looks at one page for a run that goes on from *start, or begins in it, up to *end. true: there
 * are n clusters.
 */
static bool search_page(const struct meta_alloc_page *p, uint64_t base, uint64_t n, uint64_t *start,
			uint64_t *end)
{
	unsigned pos = (unsigned)(*end - base);

	while (pos < META_PAGE_CLUSTERS) {
		unsigned stop = next_bit(p, pos, true);

		if (base + stop - *start >= n) {
			*end = *start + n;
			return true;
		}
		if (stop == META_PAGE_CLUSTERS)
			break;
		pos = next_bit(p, stop, false);
		*start = base + pos;
	}
	*end = base + META_PAGE_CLUSTERS;
	return false;
}

static void mark_locked(struct meta_alloc *a, uint64_t first, uint64_t n, bool used)
{
	while (n > 0) {
		unsigned in_page = (unsigned)(first % META_PAGE_CLUSTERS);
		uint64_t here = min_u64(n, META_PAGE_CLUSTERS - in_page);

		if (is_known_locked(a, first / META_PAGE_CLUSTERS))
			set_bits(a->pages[first / META_PAGE_CLUSTERS], in_page, (unsigned)here,
				 used);
		first += here;
		n -= here;
	}
}

static void use_up_to_locked(struct meta_alloc *a, uint64_t behind)
{
	a->end = max_u64(a->end, behind);
	if (a->fresh_from != UINT64_MAX)
		a->fresh_from = max_u64(a->fresh_from, behind);
}

static void hand_out_locked(struct meta *m, uint64_t first, uint64_t n, struct meta_run *run)
{
	struct meta_alloc *a = &m->engine->alloc;

	mark_locked(a, first, n, true);
	*run = (struct meta_run){.first = first, .nclusters = n, .fresh = first >= a->fresh_from};
	if (n > 0)
		use_up_to_locked(a, first + n);
}

static int too_far(const struct meta *m, uint64_t n, struct qcow2_error *err)
{
	return error_set(err, -EFBIG,
			 "%" PRIu64 " clusters of %" PRIu64
			 " bytes find no place below the end of what the format can address",
			 n, m->geometry.cluster_size);
}

int meta_alloc_find(struct meta *m, uint64_t n, uint64_t limit_off, struct meta_run *run,
		    struct qcow2_error *err)
{
	struct meta_alloc *a = &m->engine->alloc;
	const uint64_t limit = limit_off >> m->geometry.cluster_bits;
	uint64_t start, end, given_back;
	bool found = false;
	int ret = 0;

	pthread_mutex_lock(&a->lock);
	start = end = a->hint;
	while (ret == 0 && !found && n <= limit && start <= limit - n) {
		uint64_t idx = end / META_PAGE_CLUSTERS;

		if (!is_known_locked(a, idx)) {
			given_back = a->given_back;
			ret = know_page_locked(m, idx, err);
			/*
			 * Others may have been here meanwhile: what seemed free may be gone, what
			 * was in use may be free. Only then all is looked at again, or each page
			 * of a large image would be looked at once for each that follows.
			 */
			start = a->given_back == given_back ? start : a->hint;
			end = start;
			continue;
		}
		found = search_page(a->pages[idx], idx * META_PAGE_CLUSTERS, n, &start, &end);
	}
	if (found) {
		hand_out_locked(m, start, n, run);
		a->hint = end;
	}
	pthread_mutex_unlock(&a->lock);
	return ret == 0 && !found ? too_far(m, n, err) : ret;
}

int meta_alloc_find_at(struct meta *m, uint64_t first, uint64_t n, struct meta_run *run,
		       struct qcow2_error *err)
{
	struct meta_alloc *a = &m->engine->alloc;
	const uint64_t limit = LAYOUT_HOST_OFF_MAX >> m->geometry.cluster_bits;
	uint64_t end = first;
	int ret = 0;

	*run = (struct meta_run){.first = first};
	n = first < limit ? min_u64(n, limit - first) : 0;
	pthread_mutex_lock(&a->lock);
	if (first > max_u64(a->end, a->in_file)) /* an image may claim to go on anywhere */
		n = 0;
	while (ret == 0 && end < first + n) {
		uint64_t idx = end / META_PAGE_CLUSTERS;
		uint64_t base = idx * META_PAGE_CLUSTERS;
		unsigned stop;

		if (!is_known_locked(a, idx)) {
			ret = know_page_locked(m, idx, err);
			end = first; /* what was free may be gone */
			continue;
		}
		stop = next_bit(a->pages[idx], (unsigned)(end - base), true);
		end = min_u64(base + stop, first + n);
		if (stop < META_PAGE_CLUSTERS)
			break;
	}
	if (ret == 0)
		hand_out_locked(m, first, end - first, run);
	pthread_mutex_unlock(&a->lock);
	return ret;
}

void meta_alloc_give_back(struct meta *m, uint64_t first, uint64_t n)
{
	struct meta_alloc *a = &m->engine->alloc;

	pthread_mutex_lock(&a->lock);
	mark_locked(a, first, n, false);
	a->hint = min_u64(a->hint, first);
	a->given_back++;
	pthread_mutex_unlock(&a->lock);
}

/* The pages of n clusters, at least one. */
static int know_pages_locked(struct meta *m, uint64_t first, uint64_t n, struct qcow2_error *err)
{
	int ret = 0;

	for (uint64_t idx = first / META_PAGE_CLUSTERS;
	     ret == 0 && idx <= (first + n - 1) / META_PAGE_CLUSTERS; idx++)
		ret = know_page_locked(m, idx, err);
	return ret;
}

int meta_alloc_hold(struct meta *m, uint64_t first, uint64_t n, struct qcow2_error *err)
{
	struct meta_alloc *a = &m->engine->alloc;
	int ret;

	pthread_mutex_lock(&a->lock);
	ret = know_pages_locked(m, first, n, err);
	pthread_mutex_unlock(&a->lock);
	return ret;
}

int meta_alloc_mark(struct meta *m, uint64_t first, uint64_t n, struct qcow2_error *err)
{
	struct meta_alloc *a = &m->engine->alloc;
	int ret;

	pthread_mutex_lock(&a->lock);
	ret = know_pages_locked(m, first, n, err);
	if (ret == 0) {
		mark_locked(a, first, n, true);
		use_up_to_locked(a, first + n);
	}
	pthread_mutex_unlock(&a->lock);
	return ret;
}

uint64_t meta_alloc_end(struct meta *m)
{
	struct meta_alloc *a = &m->engine->alloc;
	uint64_t end;

	pthread_mutex_lock(&a->lock);
	end = max_u64(a->end, a->hint);
	pthread_mutex_unlock(&a->lock);
	return end;
}

/* Whether the last cluster below *end is in use; moves *end down over what isn't, within a page. */
static int look_below(struct meta *m, uint64_t *end, bool *used, struct qcow2_error *err)
{
	struct meta_alloc *a = &m->engine->alloc;
	uint64_t idx = (*end - 1) / META_PAGE_CLUSTERS;
	uint64_t base = idx * META_PAGE_CLUSTERS;
	struct meta_alloc_page page = {0};
	bool known;
	int ret = 0;

	pthread_mutex_lock(&a->lock);
	known = is_known_locked(a, idx);
	if (known)
		page = *a->pages[idx];
	pthread_mutex_unlock(&a->lock);
	if (!known) /* it isn't kept: there may be many, and nobody wants clusters from them */
		ret = look_at_page(m, idx, &page, err);
	for (*used = false; ret == 0 && *end > base && !*used; *end -= !*used) {
		uint64_t pos = *end - 1 - base;

		*used = page.used[pos / 64] >> (pos % 64) & 1;
	}
	return ret;
}

/* Below end, but above all pages that are known, where the last refcount block's range ends. */
static int skip_uncounted(struct meta *m, uint64_t *end, struct qcow2_error *err)
{
	const uint32_t bits = m->geometry.refblock_bits;
	struct meta_alloc *a = &m->engine->alloc;
	uint64_t known, off = 0;
	int ret = 0;

	pthread_mutex_lock(&a->lock);
	known = a->npages * META_PAGE_CLUSTERS;
	pthread_mutex_unlock(&a->lock);
	*end = min_u64(*end, max_u64(known, meta_refs_end(m)));
	while (*end > known) {
		ret = meta_refblock_off(m, (*end - 1) >> bits, &off, err);
		if (ret < 0 || off != 0)
			break;
		*end = max_u64(known, (*end - 1) >> bits << bits);
	}
	return ret;
}

int meta_alloc_last_used(struct meta *m, uint64_t end, uint64_t *behind, struct qcow2_error *err)
{
	const uint64_t all = end;
	bool used = false;
	int ret = 0;

	for (unsigned pages = 0; end > 0 && ret == 0 && !used; pages++) {
		if (pages == PAGES_WALKED_MAX) {
			end = all;
			break;
		}
		ret = skip_uncounted(m, &end, err);
		if (ret == 0 && end > 0)
			ret = look_below(m, &end, &used, err);
	}
	*behind = end;
	return ret;
}
