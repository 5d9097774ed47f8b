/* SPDX-License-Identifier: MIT */
/*
 * qcow2 snapshot: the internal snapshots of an image. The letters are qemu-img's; each has a word
 * that does the same. Without either it lists.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/diag.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/size.h"
#include "image.h"
#include "info_rows.h"
#include "loss.h"
#include "names/open.h"
#include "verb.h"

#define NAME_MAX_BYTES 255 /* QEMU cuts off what is longer, and then doesn't find it */

struct snapshot_args {
	struct cli_list create, apply, remove;
	const char *format;
	bool list, progress, quiet, force_share, image_opts, dry_run;
	int output;
};

static const struct cli_option snapshot_options[] = {
	{'c', "create", CLI_LIST, offsetof(struct snapshot_args, create), "NAME",
	 "take one; also: create NAME FILE", NULL},
	{'a', "apply", CLI_LIST, offsetof(struct snapshot_args, apply), "ID|NAME",
	 "go back to it; also: apply ID|NAME FILE", NULL},
	{'d', "delete", CLI_LIST, offsetof(struct snapshot_args, remove), "NAME",
	 "delete it; also: delete NAME FILE", NULL},
	{'l', "list", CLI_FLAG, offsetof(struct snapshot_args, list), NULL,
	 "list them (the default); also: list FILE", NULL},
	{0, "output", CLI_CHOICE, offsetof(struct snapshot_args, output), "text|json",
	 "how to print the list", tool_outputs},
	{'f', "format", CLI_STRING, offsetof(struct snapshot_args, format), "FMT",
	 "format: qcow2 or raw (default: look)", NULL},
	{'U', "force-share", CLI_FLAG, offsetof(struct snapshot_args, force_share), NULL,
	 "list even while another program writes", NULL},
	{0, "image-opts", CLI_FLAG, offsetof(struct snapshot_args, image_opts), NULL,
	 "FILE is a list of driver options", NULL},
	{0, "dry-run", CLI_FLAG, offsetof(struct snapshot_args, dry_run), NULL,
	 "of -a and -d: only tell what would be lost", NULL},
	{'p', "progress", CLI_PROGRESS, offsetof(struct snapshot_args, progress), NULL,
	 "of -c, -a and -d: show the progress, in percent", NULL},
	{'q', "quiet", CLI_FLAG, offsetof(struct snapshot_args, quiet), NULL,
	 "say nothing but errors and the list", NULL},
	CLI_END,
};

const struct cli_command snapshot_command = {
	.name = "snapshot",
	.operands = "FILE",
	.summary = "Takes, applies, deletes and lists internal snapshots.",
	.options = snapshot_options,
	.notes = "\nNames may occur twice: the first is meant. The disk keeps its snapshots\n"
		 "when it goes back to one, and loses what was written since.",
	.failure_status = EXIT_FAILURE,
	.own_progress = true,
};

enum action { LIST, CREATE, APPLY, REMOVE };

struct order {
	enum action action;
	const char *name; /* NULL for LIST */
	const char *file;
};

/* ---- the command line ---- */

static int from_words(struct order *o, char **words, int n)
{
	static const char *const verbs[] = {
		[LIST] = "list", [CREATE] = "create", [APPLY] = "apply", [REMOVE] = "delete"};

	for (enum action a = LIST; a <= REMOVE; a++) {
		int want = a == LIST ? 2 : 3;

		if (strcmp(words[0], verbs[a]) != 0)
			continue;
		if (n != want)
			return cli_usage("snapshot",
					 a == LIST ? "expecting 'list FILE'"
						   : "expecting '%s NAME FILE'",
					 verbs[a]);
		*o = (struct order){a, a == LIST ? NULL : words[1], words[n - 1]};
		return 0;
	}
	return cli_usage("snapshot", "expecting one image file");
}

/* Says what is wrong. */
static int read_order(struct order *o, const struct snapshot_args *args, char **words, int n)
{
	size_t letters = args->create.n + args->apply.n + args->remove.n + args->list;

	*o = (struct order){.action = LIST};
	if (letters > 1)
		return cli_usage("snapshot", "only one of -c, -a, -d and -l goes at a time");
	if (n > 1 && letters == 0)
		return from_words(o, words, n);
	if (n != 1)
		return cli_usage("snapshot", "expecting one image file");
	o->file = words[0];
	if (args->create.n)
		*o = (struct order){CREATE, args->create.items[0], words[0]};
	else if (args->apply.n)
		*o = (struct order){APPLY, args->apply.items[0], words[0]};
	else if (args->remove.n)
		*o = (struct order){REMOVE, args->remove.items[0], words[0]};
	return 0;
}

/* What can be said before anything is opened. */
static int check_order(const struct order *o, const struct snapshot_args *args)
{
	if (o->action != LIST && args->force_share)
		return cli_error("could not open '%s': -U goes with listing only", o->file);
	if (o->action == CREATE && strlen(o->name) > NAME_MAX_BYTES)
		return cli_error("Could not create snapshot '%s': a name has at most %d bytes",
				 o->name, NAME_MAX_BYTES);
	if (args->dry_run && o->action != APPLY && o->action != REMOVE)
		return cli_usage("snapshot", "--dry-run goes with -a and -d only");
	if (args->format && args->image_opts)
		return cli_error("--image-opts and -f are mutually exclusive");
	return tool_known_format(args->format) ? 0 : EXIT_FAILURE;
}

/* ---- doing it ---- */

static void warn(void *opaque, const char *sentence)
{
	*(bool *)opaque = true;
	cli_warn("%s", sentence);
}

static int open_image(struct qcow2_image **image, struct names_setup *setup, const struct order *o,
		      const struct snapshot_args *args, bool *warned, struct qcow2_error *err)
{
	struct names_opening opening = {.options = QCOW2_OPEN_OPTIONS_INIT};
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	int rc = tool_fill_setup(setup, o->file, args->format,
				 (o->action == LIST || args->dry_run ? 0 : QCOW2_OPEN_WRITE) |
					 (args->image_opts ? TOOL_OPEN_IMAGE_OPTS : 0),
				 err);

	if (rc < 0)
		return rc;
	setup->force_share = setup->force_share || args->force_share;
	policy.follow = QCOW2_FOLLOW_LOCAL;
	names_setup_fill(&opening.options, setup);
	opening.options.policy = &policy;
	opening.options.warn = warn;
	opening.options.opaque = warned;
	rc = names_open(&opening, setup, err);
	*image = opening.image;
	return rc;
}

static int list(struct qcow2_image *image, int output, struct qcow2_error *err)
{
	struct qcow2_info info = QCOW2_INFO_INIT;
	struct cli_out out;
	int rc = qcow2_info(image, &info, err);

	if (rc < 0)
		return rc;
	cli_out_init(&out, stdout, output == TOOL_OUTPUT_JSON);
	info_rows_put_snapshots(&out, &info);
	return 0;
}

/* As the library finds it: by its id first, but not to delete it. */
static const struct qcow2_snapshot_info *find(const struct qcow2_info *info, const struct order *o)
{
	for (size_t i = 0; o->action == APPLY && i < info->nsnapshots; i++)
		if (strcmp(info->snapshots[i].id, o->name) == 0)
			return &info->snapshots[i];
	for (size_t i = 0; i < info->nsnapshots; i++)
		if (strcmp(info->snapshots[i].name, o->name) == 0)
			return &info->snapshots[i];
	return NULL;
}

/* What goes with it. -ENOENT: there is none of that name. */
static int tell_loss(struct qcow2_image *image, const struct order *o, enum tool_loss mode,
		     struct qcow2_error *err)
{
	struct qcow2_info info = QCOW2_INFO_INIT;
	const struct qcow2_snapshot_info *s;
	int rc = qcow2_info(image, &info, err);
	char date[32] = "?", size[CLI_SIZE_TEXT];
	struct tm tm;
	time_t t;

	s = rc < 0 ? NULL : find(&info, o);
	if (!s) {
		err->code = rc < 0 ? rc : -ENOENT;
		return err->code;
	}
	t = (time_t)s->date_sec;
	if (localtime_r(&t, &tm))
		strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
	if (o->action == APPLY)
		tool_loss_say(mode,
			      "the disk [would go|goes] back to snapshot \"%s\" (ID %s, of %s): "
			      "what was written since then, and isn't in another snapshot, [would "
			      "be|is] lost",
			      s->name, s->id, date);
	else
		tool_loss_say(
			mode,
			"snapshot \"%s\" (ID %s, of %s, a disk of %s%s) [would be|is] deleted, "
			"and what only it has [would be|is] lost",
			s->name, s->id, date, cli_size_human(size, s->disk_bytes),
			s->vm_state_bytes ? ", with the state of a machine" : "");
	return 0;
}

static int change(struct qcow2_image *image, const struct order *o,
		  const struct snapshot_args *args, struct qcow2_error *err)
{
	enum tool_loss mode = tool_loss_mode(args->dry_run, args->quiet);
	struct cli_progress progress;
	struct qcow2_progress watch = {cli_progress_tick, &progress};
	int rc;

	if (o->action != CREATE && mode != TOOL_LOSS_UNSAID) {
		rc = tell_loss(image, o, mode, err);
		if (rc < 0 || args->dry_run)
			return rc;
	}
	cli_interrupt_catch();
	cli_progress_begin(&progress, args->progress, args->quiet);
	qcow2_watch(image, &watch);
	if (o->action == CREATE)
		rc = qcow2_snapshot_create(image, o->name, NULL, err);
	else if (o->action == APPLY)
		rc = qcow2_snapshot_apply(image, o->name, 0, err);
	else
		rc = qcow2_snapshot_delete(image, o->name, QCOW2_SNAPSHOT_BY_NAME, err);
	if (rc == 0)
		rc = qcow2_finish(image, err);
	qcow2_watch(image, NULL);
	cli_progress_end(&progress, rc == 0);
	return rc;
}

/* qemu-img's beginning of the sentence, and where there is no such snapshot all of it. */
static int explain(const struct order *o, const struct qcow2_error *err)
{
	static const char *const what[] = {
		[LIST] = "list", [CREATE] = "create", [APPLY] = "apply", [REMOVE] = "delete"};
	const char *why = err->message;

	if (o->action == LIST)
		return cli_error("%s", why);
	if (err->code == -ENOENT && o->action == APPLY)
		why = "Failed to load snapshot: No such file or directory";
	if (err->code == -ENOENT && o->action == REMOVE)
		why = "snapshot not found";
	return cli_error("Could not %s snapshot '%s': %s", what[o->action], o->name, why);
}

static int snapshot(const struct order *o, const struct snapshot_args *args)
{
	struct qcow2_image *image = NULL;
	struct qcow2_error err = {0};
	struct names_setup setup;
	bool warned = false;
	int status = EXIT_FAILURE;
	int rc;

	names_setup_init(&setup);
	rc = open_image(&image, &setup, o, args, &warned, &err);
	if (rc < 0) {
		tool_explain_opening(o->file, args->image_opts ? TOOL_OPEN_IMAGE_OPTS : 0, &err,
				     rc == -EAGAIN && o->action == LIST ? "-U lists it all the same"
									: NULL);
	} else if (rc == 0) {
		if (o->action != LIST)
			rc = change(image, o, args, &err);
		else if (args->list || !cli_is_face()) /* qemu-img needs to be asked */
			rc = list(image, args->output, &err);
		status = rc == -ECANCELED ? EXIT_FAILURE : rc < 0 ? explain(o, &err) : EXIT_SUCCESS;
	}
	qcow2_close(image);
	names_setup_release(&setup);
	if (rc == -ECANCELED)
		cli_interrupt_die();
	/* the list isn't all there is if a part of it couldn't be read */
	return o->action == LIST && warned ? EXIT_FAILURE : status;
}

int verb_snapshot(int argc, char **argv)
{
	struct snapshot_args args = {0};
	struct order order;
	int status, first = cli_parse(&snapshot_command, argc, argv, &args, &status);

	if (first >= 0) {
		status = read_order(&order, &args, argv + first, argc - first);
		if (status == 0)
			status = check_order(&order, &args);
		if (status == 0)
			status = snapshot(&order, &args);
	}
	cli_list_release(&args.create);
	cli_list_release(&args.apply);
	cli_list_release(&args.remove);
	return status;
}
