/* SPDX-License-Identifier: MIT */
/* Opening: which names are followed, which are refused and why; whole images and parts of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "image_tmp.h"
#include "storage/storage.h"

#define KIB 1024u
#define MIB (1024 * KIB)

/* The folder of the test is the working directory too: short names. */
static int setup(void **state)
{
	struct image_tmp *t;
	int rc = image_tmp_setup(state);

	t = *state;
	return rc ? rc : chdir(t->dir);
}

static int teardown(void **state)
{
	rmdir("inside");
	return chdir("/") || image_tmp_teardown(state);
}

static int open_with(struct qcow2_image **image, const char *path, unsigned flags,
		     const struct qcow2_policy *policy, struct qcow2_error *err)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;

	options.flags = flags;
	options.policy = policy;
	*err = (struct qcow2_error){0};
	return qcow2_open(image, path, &options, err);
}

static void expect_refused(const char *path, unsigned flags, const struct qcow2_policy *policy,
			   int code, const char *words)
{
	struct qcow2_image *image = (struct qcow2_image *)1;
	struct qcow2_error err;
	int ret = open_with(&image, path, flags, policy, &err);

	if (ret != code || err.code != code || image || !strstr(err.message, words))
		fail_msg("%s: returned %d, the record has %d: \"%s\"", path, ret, err.code,
			 err.message);
}

static void expect_opens(const char *path, unsigned flags, const struct qcow2_policy *policy)
{
	struct qcow2_image *image;
	struct qcow2_error err;

	if (open_with(&image, path, flags, policy, &err) < 0)
		fail_msg("%s: %s", path, err.message);
	qcow2_close(image);
}

static void make_overlay(const char *path, const char *backing, const char *format)
{
	assert_int_equal(
		QEMU_IMG("create", "-u", "-f", "qcow2", "-b", backing, "-F", format, path, "1M"),
		0);
}

/* Overwrites bytes of a file. */
static void patch(const char *path, uint64_t off, const char *bytes, size_t len)
{
	int fd = open(path, O_WRONLY);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, len, (off_t)off), len);
	close(fd);
}

/* ---- policy ---- */

static void nothing_is_followed_unless_the_policy_says_so(void **state)
{
	struct qcow2_policy policy = QCOW2_POLICY_INIT;

	(void)state;
	image_tmp_make_raw("base", MIB, 1);
	make_overlay("top", "base", "raw");
	expect_refused("top", 0, NULL, -EPERM, "backing file \"base\"");
	expect_refused("top", 0, &policy, -EPERM, "policy");
	policy.follow = QCOW2_FOLLOW_DATA_FILE | QCOW2_FOLLOW_PROBE;
	expect_refused("top", 0, &policy, -EPERM, "policy");
	expect_opens("top", QCOW2_OPEN_INFO, NULL);
	expect_opens("top", QCOW2_OPEN_NO_BACKING, NULL);
	policy.follow = QCOW2_FOLLOW_BACKING;
	expect_opens("top", 0, &policy);
}

static void a_data_file_is_followed_by_its_own_flag(void **state)
{
	struct qcow2_policy policy = QCOW2_POLICY_INIT;

	(void)state;
	assert_int_equal(QEMU_IMG("create", "-f", "qcow2", "-o", "data_file=data", "image", "1M"),
			 0);
	expect_refused("image", 0, NULL, -EPERM, "\"data\"");
	expect_opens("image", QCOW2_OPEN_INFO, NULL);
	policy.follow = QCOW2_FOLLOW_BACKING | QCOW2_FOLLOW_PROBE;
	expect_refused("image", 0, &policy, -EPERM, "\"data\"");
	policy.follow = QCOW2_FOLLOW_DATA_FILE;
	expect_opens("image", 0, &policy);
	policy.dirs = (const char *const[]){"/usr", NULL};
	expect_refused("image", 0, &policy, -EPERM, "outside");
	unlink("data");
	expect_refused("image", 0, &policy, -ENOENT, "data file of \"image\"");
}

static void a_format_is_guessed_only_where_that_is_allowed(void **state)
{
	struct qcow2_policy policy = QCOW2_POLICY_INIT;

	(void)state;
	image_tmp_make_raw("base", MIB, 1);
	make_overlay("top", "base", "raw");
	/* the backing format extension becomes one that nobody knows */
	patch("top", 112, "\x12\x34\x56\x78", 4);
	policy.follow = QCOW2_FOLLOW_BACKING;
	expect_refused("top", 0, &policy, -EINVAL, "guessing");
	policy.follow = QCOW2_FOLLOW_LOCAL;
	expect_opens("top", 0, &policy);
}

static void names_must_lie_in_the_directories_of_the_policy(void **state)
{
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct image_tmp *t = *state;
	const char *dirs[] = {NULL, NULL};
	char *inside = image_tmp_path(state, "inside");
	char *parent;

	assert_int_equal(mkdir("inside", 0755), 0);
	image_tmp_make_raw("inside/base", MIB, 1);
	image_tmp_make_raw("outside", MIB, 1);
	assert_int_equal(symlink("../outside", "inside/link"), 0);
	assert_true(asprintf(&parent, "%s/../%s", inside, strrchr(t->dir, '/') + 1) > 0);
	make_overlay("good", "inside/base", "raw");
	make_overlay("bad", "inside/link", "raw");
	make_overlay("ugly", "inside/../outside", "raw");
	policy.follow = QCOW2_FOLLOW_LOCAL;
	policy.dirs = dirs;
	expect_refused("good", 0, &policy, -EPERM, "outside the directories");
	dirs[0] = inside;
	expect_opens("good", 0, &policy);
	expect_refused("bad", 0, &policy, -EPERM, "outside the directories");
	expect_refused("ugly", 0, &policy, -EPERM, "outside the directories");
	dirs[0] = t->dir;
	expect_opens("bad", 0, &policy);
	free(parent);
	free(inside);
	unlink("inside/base");
	unlink("inside/link");
}

static void names_of_other_protocols_are_refused(void **state)
{
	static const char *const names[] = {
		"nbd://localhost/x",	     "json:{\"driver\":\"raw\"}", "a:b", ":x", "http:x",
		"/dev/fd/../fd:0:x/../../.."};
	struct qcow2_policy policy = QCOW2_POLICY_INIT;

	(void)state;
	policy.follow = QCOW2_FOLLOW_LOCAL;
	for (size_t i = 0; i + 1 < sizeof(names) / sizeof(names[0]); i++) {
		struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;

		create.flags = QCOW2_CREATE_UNSAFE_BACKING | QCOW2_CREATE_OVERWRITE;
		create.size = MIB;
		create.backing_file = names[i];
		create.backing_format = "raw";
		assert_int_equal(qcow2_create("top", &create, NULL), 0);
		expect_refused("top", 0, &policy, -EPERM, "local file");
		expect_opens("top", QCOW2_OPEN_INFO, NULL);
	}
}

/* ---- depth, circles ---- */

static void a_chain_may_be_as_deep_as_the_limit(void **state)
{
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	char below[16] = "0", name[16];

	(void)state;
	image_tmp_make_raw("0", MIB, 1);
	for (int i = 1; i <= 20; i++) {
		snprintf(name, sizeof(name), "%d", i);
		make_overlay(name, below, i == 1 ? "raw" : "qcow2");
		memcpy(below, name, sizeof(below));
	}
	policy.follow = QCOW2_FOLLOW_LOCAL;
	expect_opens("20", 0, &policy);
	policy.max_depth = 20;
	expect_opens("20", 0, &policy);
	policy.max_depth = 19;
	expect_refused("20", 0, &policy, -ELOOP, "limit of 19");
	policy.max_depth = 1;
	expect_opens("1", 0, &policy);
	expect_refused("2", 0, &policy, -ELOOP, "limit of 1");
}

static void circles_are_found_behind_any_name(void **state)
{
	struct qcow2_policy policy = QCOW2_POLICY_INIT;

	(void)state;
	policy.follow = QCOW2_FOLLOW_LOCAL;
	make_overlay("self", "./self", "qcow2");
	expect_refused("self", 0, &policy, -ELOOP, "circle");
	assert_int_equal(symlink("one", "alias"), 0);
	make_overlay("two", "alias", "qcow2");
	make_overlay("one", "./two", "qcow2");
	expect_refused("one", 0, &policy, -ELOOP, "circle");
	expect_refused("two", 0, &policy, -ELOOP, "circle");
	assert_int_equal(link("one", "hard"), 0);
	expect_refused("hard", 0, &policy, -ELOOP, "circle");
	expect_opens("one", QCOW2_OPEN_INFO, NULL);
}

static void unknown_flags_are_refused(void **state)
{
	(void)state;
	image_tmp_make_raw("disk", MIB, 1);
	expect_refused("disk", 1u << 20, NULL, -EINVAL, "0x100000");
	expect_refused("disk", QCOW2_OPEN_WRITE | QCOW2_OPEN_INFO, NULL, -EINVAL, "information");
}

/* ---- options of other versions ---- */

static void options_may_be_shorter_or_longer(void **state)
{
	struct {
		struct qcow2_open_options known;
		uint64_t more;
	} options = {.known = QCOW2_OPEN_OPTIONS_INIT};
	struct {
		struct qcow2_policy known;
		uint64_t more;
	} policy = {.known = QCOW2_POLICY_INIT};
	struct qcow2_image *image;
	struct qcow2_error err = {0};

	(void)state;
	image_tmp_make_raw("disk", MIB, 1);
	options.known.struct_size = sizeof(options);
	assert_int_equal(qcow2_open(&image, "disk", &options.known, &err), 0);
	qcow2_close(image);
	options.more = 1;
	assert_int_equal(qcow2_open(&image, "disk", &options.known, &err), -ENOTSUP);
	assert_non_null(strstr(err.message, "doesn't know"));
	options.known.struct_size = 0;
	assert_int_equal(qcow2_open(&image, "disk", &options.known, &err), -EINVAL);
	assert_non_null(strstr(err.message, "struct_size"));
	/* what lies past the end of a shorter one isn't looked at */
	options.known.struct_size = offsetof(struct qcow2_open_options, format);
	options.known.format = "no such format";
	assert_int_equal(qcow2_open(&image, "disk", &options.known, &err), 0);
	qcow2_close(image);
	options.known = (struct qcow2_open_options)QCOW2_OPEN_OPTIONS_INIT;
	options.known.policy = &policy.known;
	policy.known.struct_size = sizeof(policy);
	policy.more = 1;
	assert_int_equal(qcow2_open(&image, "disk", &options.known, &err), -ENOTSUP);
}

static void creating_looks_at_no_more_of_a_policy_than_there_is(void **state)
{
	static const char *const nowhere[] = {"/nonexistent", NULL};
	struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_error err = {0};

	(void)state;
	image_tmp_make_raw("disk", MIB, 1);
	policy.follow = QCOW2_FOLLOW_LOCAL;
	policy.dirs = nowhere;
	create.policy = &policy;
	create.backing_file = "disk";
	create.backing_format = "raw";
	create.flags = QCOW2_CREATE_OVERWRITE;
	assert_int_equal(qcow2_create("overlay", &create, &err), -EPERM);
	policy.struct_size = offsetof(struct qcow2_policy, dirs);
	assert_int_equal(qcow2_create("overlay", &create, &err), 0);
	policy.struct_size = 0;
	assert_int_equal(qcow2_create("overlay", &create, &err), -EINVAL);
	assert_non_null(strstr(err.message, "struct_size"));
}

static void info_fills_as_much_as_the_caller_has(void **state)
{
	struct {
		struct qcow2_info known;
		unsigned char more[64];
	} info;
	struct qcow2_image *image;

	(void)state;
	image_tmp_make_raw("disk", MIB, 1);
	image = image_tmp_open("disk", NULL);
	memset(&info, 0x5a, sizeof(info));
	info.known.struct_size = offsetof(struct qcow2_info, disk_bytes);
	assert_int_equal(qcow2_info(image, &info.known, NULL), 0);
	assert_int_equal(info.known.struct_size, offsetof(struct qcow2_info, disk_bytes));
	assert_int_equal(info.known.virtual_size, MIB);
	assert_int_equal(info.known.disk_bytes, 0x5a5a5a5a5a5a5a5aull);
	info.known.struct_size = sizeof(info);
	assert_int_equal(qcow2_info(image, &info.known, NULL), 0);
	assert_int_equal(info.known.struct_size, sizeof(info));
	assert_true(info.known.has_disk_bytes);
	info.known.struct_size = 0;
	assert_int_equal(qcow2_info(image, &info.known, NULL), -EINVAL);
	qcow2_close(image);
}

/* ---- stores of the caller's ---- */

static int open_nameless(const char *path, struct qcow2_image **image, struct qcow2_error *err)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_storage st;

	policy.follow = QCOW2_FOLLOW_LOCAL;
	options.policy = &policy;
	assert_int_equal(storage_file_open(&st, path, 0, NULL), 0);
	return qcow2_open_storage(image, st, NULL, &options, err);
}

static void a_nameless_store_has_no_relative_names(void **state)
{
	struct image_tmp *t = *state;
	struct qcow2_info info = QCOW2_INFO_INIT;
	struct qcow2_error err = {0};
	struct qcow2_image *image;
	char base[100];

	image_tmp_make_raw("base", MIB, 1);
	make_overlay("relative", "base", "raw");
	assert_int_equal(open_nameless("relative", &image, &err), -EINVAL);
	assert_int_equal(err.code, -EINVAL);
	assert_non_null(strstr(err.message, "relative"));
	snprintf(base, sizeof(base), "%s/base", t->dir);
	make_overlay("absolute", base, "raw");
	assert_int_equal(open_nameless("absolute", &image, &err), 0);
	assert_int_equal(qcow2_info(image, &info, NULL), 0);
	assert_non_null(info.filename);
	assert_string_equal(info.backing_path, base);
	qcow2_close(image);
}

#define OPEN_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		OPEN_TEST(nothing_is_followed_unless_the_policy_says_so),
		OPEN_TEST(a_data_file_is_followed_by_its_own_flag),
		OPEN_TEST(a_format_is_guessed_only_where_that_is_allowed),
		OPEN_TEST(names_must_lie_in_the_directories_of_the_policy),
		OPEN_TEST(names_of_other_protocols_are_refused),
		OPEN_TEST(a_chain_may_be_as_deep_as_the_limit),
		OPEN_TEST(circles_are_found_behind_any_name),
		OPEN_TEST(unknown_flags_are_refused),
		OPEN_TEST(options_may_be_shorter_or_longer),
		OPEN_TEST(creating_looks_at_no_more_of_a_policy_than_there_is),
		OPEN_TEST(info_fills_as_much_as_the_caller_has),
		OPEN_TEST(a_nameless_store_has_no_relative_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
