/* SPDX-License-Identifier: MIT */
/*
 * qemu-img's sentences for ours. Only where it has one for the case: what it doesn't know is said
 * in our words. tests/dropin runs both and compares.
 */
#include <stddef.h>

#include "compat/words.h"

#define UNITS(what)                                                                                \
	"Invalid " what " specified. You may use k, M, G, T, P or E suffixes for\n"                \
	"\akilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes."
#define RANGE(what) "Invalid " what " specified. Must be between 0 and 9223372036854775807."
#define SPARSE                                                                                     \
	"Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to " \
	"16777216. Select 0 to disable sparse detection (fully allocates output)."
#define COROUTINES "Invalid number of coroutines. Allowed number of coroutines is between 1 and 16"
#define LOCKED "lock\nIs another process using the image [$1]?"
#define VERSION_3 " compatibility level 1.1 and above (use version=v3 or greater)"
#define PART CLI_WORDS_PART
#define KEEP CLI_HINT_KEEP
#define YES CLI_HINT_YES
#define NO CLI_HINT_NO

/* clang-format off: a table */
const struct cli_words compat_qemu_img_words[] = {
	/* arguments */
	{NULL, "--output: '*' is not one of *",
	 "--output must be used with human or json as argument.", NO},
	{"check", "-r: '*' is not one of *",
	 "Unknown option value for -r (expecting 'leaks' or 'all'): $1", YES},
	{NULL, "-t: '*' is not one of *", "Invalid cache option: $1", NO},
	{NULL, "-T: '*' is not one of *", "Invalid source cache option: $1", NO},
	{"map", "-s: '*' is not a size*", UNITS("start offset"), NO},
	{"map", "-s: '-*' is out of range*", UNITS("start offset"), NO},
	{"map", "-s: '*' is out of range*", RANGE("start offset"), NO},
	{"map", "-l: '*' is not a size*", UNITS("max length"), NO},
	{"map", "-l: '-*' is out of range*", UNITS("max length"), NO},
	{"map", "-l: '*' is out of range*", RANGE("max length"), NO},
	{"convert", "-S: '*' is not a size*", UNITS("buffer size for sparse output"), NO},
	{"convert", "-S takes *", SPARSE, NO},
	{NULL, "-r: '*' is not a size*", UNITS("rate limit"), NO},
	{"convert", "-m: *", COROUTINES, NO},
	{NULL, "expecting one image file", "Expecting one image file name", YES},
	{"compare", "expecting two image files", "Expecting two image file names", YES},
	{"create", "expecting a file and a size", "Expecting image file name", YES},
	{"create", "'*' is too much: *", "Unexpected argument: $1", YES},
	{"create", "a size is needed, *", "$@: Image creation needs a size parameter", NO},
	{"create", "option 'size' doesn't take '-1': *", "unrecognized option '-1'", YES},
	{"create", "option 'size' doesn't take '9*E': *", RANGE("image size"), NO},
	{"create", "option 'size' doesn't take *", UNITS("image size"), NO},
	{"create", "the size is given twice, *", "$@: The image size must be specified only once",
	 NO},
	{"convert", "expecting a source and a target", "Must specify image file name", NO},
	{"convert", "raw images can't be compressed*",
	 "Compression not supported for this file format", NO},
	{"convert", "-o has no effect *", "-o has no effect when skipping image creation", NO},
	{"convert", "--target-image-opts goes with -n only",
	 "--target-image-opts requires use of -n flag", NO},
	{"convert", "--target-is-zero goes with -n only",
	 "--target-is-zero requires use of -n flag", NO},
	{"convert", "--target-is-zero and a backing file *",
	 "Cannot use --target-is-zero when the destination image has a backing file", NO},
	{"convert", "a backing file of the target makes no sense *",
	 "Having a backing file for the target makes no sense when concatenating multiple input "
	 "images",
	 NO},
	{"convert", "-C copies as it is: it doesn't go with --salvage",
	 "Cannot use copy offloading in salvaging mode", NO},
	{"convert", "-C copies as it is: it doesn't go with *",
	 "Cannot enable copy offloading when $1 is used", NO},
	{"convert", "-l takes one source only", "No support for concatenating multiple snapshot",
	 NO},
	{"convert", "-l: '*' is not a snapshot's id or name*",
	 "Failed in parsing snapshot param '$1'", NO},
	{"convert", "\"*\" has no snapshot '*", "Failed to load snapshot: Can't find snapshot", NO},
	{"snapshot", "only one of -c, -a, -d and -l *", "Cannot mix '-l', '-a', '-c', '-d'", YES},
	{"snapshot", "could not open '*': -U goes with *",
	 "Could not open '$1': force-share=on can only be used with read-only images", NO},
	{"check", "can't repair an image that others may be writing to",
	 "Could not open '$@': force-share=on can only be used with read-only images", NO},
	{NULL, "--image-opts and -f are mutually exclusive",
	 "--image-opts and --format are mutually exclusive", NO},

	/* options of new images */
	{"rebase to", "unknown format '*'; *", "Invalid format name: '$1'", NO},
	{"create", "unknown format '*'; *", "$@: Unknown file format '$1'", NO},
	{"convert to", "unknown format '*'; *", "Unknown file format '$1'", NO},
	{NULL, "-o: empty element in '*' (*", "Invalid option list: $1", NO},
	{"create", "unknown option '*' in -o*", "$@: Invalid parameter '$1'", NO},
	{NULL, "unknown option '*' in -o*", "Invalid parameter '$1'", NO},
	{NULL, "option '*' has no effect yet", NULL, NO},
	{"create", "raw images have no option 'backing_file'",
	 "$@: Backing file not supported for file format 'raw'", NO},
	{NULL, "raw images have no option 'backing_file'",
	 "Backing file not supported for file format 'raw'", NO},
	{"create", "raw images have no option '*'", "$@: Invalid parameter '$1'", NO},
	{NULL, "raw images have no option '*'", "Invalid parameter '$1'", NO},
	{"create", "option '*' doesn't take '*': expecting bytes*",
	 "$@: Parameter '$1' expects a non-negative number below 2^64\n"
	 "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
	 "and exabytes, respectively.",
	 NO},
	{"create", "option 'compat' doesn't take '*'*",
	 "$@: Parameter 'version' does not accept value '$1'", NO},
	{"create", "option 'compression_type' doesn't take '*'*",
	 "$@: Parameter 'compression-type' does not accept value '$1'", NO},
	{"create", "option 'refcount_bits' doesn't take '0'*",
	 "$@: Refcount width must be a power of two and may not exceed 64 bits", NO},
	{"create", "option '*' doesn't take '*': expecting on or off",
	 "$@: Parameter '$1' expects 'on' or 'off'", NO},
	{"create", "option '*' doesn't take '*'*", "$@: Parameter '$1' does not accept value '$2'",
	 NO},

	/* making an image */
	{"create", "can't create \"*\": can't open \"*\" as qcow2: *",
	 "$1: ~3\nCould not open backing image.", NO},
	{"create", "can't create \"*\": can't open \"*\": *",
	 "$1: Could not open '$2': $3\nCould not open backing image.", NO},
	{"create", "can't create \"*\": \"*\" is no format of a backing file",
	 "$1: Unknown driver '$2'\nCould not open backing image.", NO},
	{"create", "can't create \"*\": No such file or directory",
	 "$1: Could not create '$1': No such file or directory", NO},
	{"create", "can't create \"*\": Permission denied",
	 "$1: Could not create '$1': Permission denied", NO},
	{"create", "can't create \"*\": *", "$1: ~2", NO},
	{"create", "\"*\" is in use by another program*", "$1: Failed to get \"write\" " LOCKED,
	 NO},
	{"convert to", "can't create \"*\": the backing file \"*\" needs a backing format*",
	 "Use of backing file requires explicit backing format", NO},
	{"convert to", "can't create \"*\": can't open \"*\": *",
	 "Could not open '$1': Could not open backing file: Could not open '$2': $3", NO},
	{"convert to", "can't create \"*\": No such file or directory",
	 "$1: error while converting $@: Could not create '$1': No such file or directory", NO},
	{"convert to", "can't create \"*\": *", "$1: error while converting $@: ~2", NO},
	{"convert to", "\"*\" is read and to be written: *",
	 "$1: error while converting $@: Failed to get \"write\" " LOCKED, NO},
	{"convert to", "\"*\" is a disk of *, too small for *",
	 "output file is smaller than input file", NO},
	{"convert to", "\"*\" has * bytes, too few for a disk of *",
	 "output file is smaller than input file", NO},
	{PART, "a cluster size of * bytes: it must be *",
	 "Cluster size must be a power of two between 512 and 2048k", NO},
	{PART, "a cluster size of * bytes: extended L2 entries *",
	 "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes", NO},
	{PART, "lazy refcounts: that needs *", "Lazy refcounts only supported with" VERSION_3, NO},
	{PART, "refcounts of another width *",
	 "Different refcount widths than 16 bits require compatibility level 1.1 or above (use "
	 "version=v3 or greater)",
	 NO},
	{PART, "another compression than zlib: *",
	 "Non-zlib compression type is only supported with" VERSION_3, NO},
	{PART, "an external data file: that needs *",
	 "External data files are only supported with" VERSION_3, NO},
	{PART, "refcounts of * bits: *",
	 "Refcount width must be a power of two and may not exceed 64 bits", NO},
	{PART, "data_file_raw: that needs a data file", "data-file-raw requires data-file", NO},
	{PART, "the backing file \"*\" needs a backing format*",
	 "Backing file specified without backing format", NO},
	{PART, "a backing format without a backing file",
	 "Backing format cannot be used without backing file", NO},
	{PART, "the name of the backing file is empty",
	 "Expected backing file name, got empty string", NO},
	{PART, "it can't be its own backing file",
	 "Error: Trying to create an image with the same filename as the backing file", NO},
	{PART, "preallocation=metadata: a raw image *", "Unsupported preallocation mode: metadata",
	 NO},

	/* opening an image */
	{NULL, "unknown format '*'; *", "Could not open '$@': Unknown driver '$1'", NO},
	{NULL, "can't open \"\": *",
	 "Could not open '': The 'file' block driver requires a file name", NO},
	{NULL, "can't open \"*\": it is a *, not a file or block device",
	 "Could not open '$1': 'file' driver requires '$1' to be a regular file", NO},
	{NULL, "can't open \"*\" as qcow2: *", "Could not open '$1': ~2", KEEP},
	{NULL, "can't open \"*\": *", "Could not open '$1': Could not open '$1': ~2", KEEP},
	{NULL, "backing file of \"*\": can't open \"*\": *",
	 "Could not open '$1': Could not open backing file: Could not open '$2': ~3", KEEP},
	{NULL, "backing file of \"*\": can't open \"*\" as qcow2: *",
	 "Could not open '$1': Could not open backing file: ~3", KEEP},
	{NULL, "\"*\" is in use by another program* (-U *",
	 "Could not open '$1': Failed to get shared \"write\" " LOCKED, NO},
	{NULL, "\"*\" is in use by another program*",
	 "Could not open '$1': Failed to get \"write\" " LOCKED, NO},
	{PART, "not a qcow2 image: *", "Image is not in qcow2 format", KEEP},
	{PART, "unsupported incompatible features: unknown bits 0x*",
	 "Unsupported qcow2 feature(s): Unknown incompatible feature: $1", KEEP},
	{PART, "header field version (at 0x4) is *, expected *", "Unsupported qcow2 version $1",
	 KEEP},
	{PART, "header field cluster_bits (at 0x14) is *, expected *",
	 "Unsupported cluster size: 2^$1", KEEP},
	{PART, "L1 table is too small: *", "L1 table is too small", KEEP},
	{PART, "\"*\" is marked as corrupt: *",
	 "qcow2: Image is corrupt; cannot be opened read/write", KEEP},

	/* work */
	{"rebase",
	 "Could not change the backing file to '*': new backing file \"*\": \"*\" is already open "
	 "in this program*",
	 "Could not open new backing file '$2': Failed to get shared \"write\" " LOCKED, NO},
	{"rebase", "Could not change the backing file to '*': new backing file \"*\": *",
	 "Could not open new backing file '$1': ~3", NO},
	{"rebase", "Could not change the backing file to '*': \"*\" is a raw image: *",
	 "Could not change the backing file to '$1': Operation not supported", NO},
	{PART, "can't open \"*\" as qcow2: *", "~2", KEEP},
	{PART, "can't open \"*\": *", "Could not open '$1': $2", KEEP},
	{"check", "\"*\": raw images have nothing *", "This image format does not support checks",
	 NO},
	{"check", "\"*\": can't check the image: *", "Could not open '$1': ~2", NO},
	{"map", "the data at guest offset * are compressed or encrypted*",
	 "File contains external, encrypted or compressed clusters.", NO},
	{NULL, NULL, NULL, KEEP},
};
/* clang-format on */
