/* SPDX-License-Identifier: MIT */
/*
 * What the subcommands of portalctl share. Each subcommand is one file with one
 * struct command in the table of main.c; all of them use the public header of
 * libvmportal only.
 *
 * tool.c   messages, exit codes, sizes, percentiles
 * place.c  the options that say where a channel lies (struct place)
 * table.c  rows to a table or to JSON
 * tables.c the tables of a managed portal to JSON (tables.h)
 * changes.c what has changed in them (changes.h)
 * mapped.c who has mapped a portal's memory (mapped.h)
 * frame.c  the messages that two portalctl exchange
 */
#ifndef PORTALCTL_TOOL_H
#define PORTALCTL_TOOL_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <vmportal.h>

#define DEFAULT_URI	"/dev/portal0"

/* Exit codes: part of the interface; portalctl.1 and --help list them. */
enum exit_code {
	EX_DONE = 0,	/* it worked */
	EX_MISUSE = 1,	/* wrong options or arguments */
	EX_OPEN = 2,	/* the portal, or a file to send, cannot be opened */
	EX_PEER = 3,	/* the other end is gone, or did nothing for --timeout */
	EX_PROTO = 4,	/* what arrived is corrupt, or another version's */
	EX_LOCAL = 5,	/* an error of this machine: file, memory, permission */
	EX_REFUSED = 6,	/* what is there, or is not, forbids it: no managed portal, a name */
};

#define EXIT_CODES_DOC \
	"Exit status: 0 done; 1 wrong options or arguments; 2 the portal or the file " \
	"cannot be opened; 3 the other end is gone or silent (--timeout); 4 what " \
	"arrived, or the portal, is corrupt or of another version; 5 an error of this " \
	"machine; 6 what is there, or is not, forbids it: format, create, rm, fence; not a " \
	"managed portal."

struct command {
	const char *name;
	const char *summary;
	int (*run)(int argc, char **argv);	/* argv[0] is "portalctl NAME" */
};

extern const struct command cmd_list, cmd_info, cmd_send, cmd_recv, cmd_ping,
			    cmd_watch, cmd_ring, cmd_bench, cmd_bind, cmd_unbind, cmd_format,
			    cmd_dump, cmd_check, cmd_mode, cmd_exec, cmd_ls, cmd_create, cmd_rm,
			    cmd_peers, cmd_fence, cmd_top;

/* ---- tool.c ---- */

/* "portalctl: ..." on stderr; returns @code, so that "return fail(...)" works. */
int fail(enum exit_code code, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* The exit code that belongs to a negative errno of the library. */
enum exit_code exit_of(int err);

/* fail() with the library's own text, which names the portal. */
int fail_vmp(int err);

/* "4096", "64K", "1M", "2G" (powers of 1024), also "0x..."; false: not one. */
bool parse_size(const char *s, uint64_t *v);
bool parse_u32(const char *s, uint32_t *v);

/* "1.5 MiB"; @buf is returned. */
char *human_size(char *buf, size_t cap, uint64_t bytes);

/* Monotonic clock, nanoseconds. */
uint64_t now_ns(void);

/* What is opened where no URI is given: $VMPORTAL_URI, or DEFAULT_URI. */
const char *default_uri(void);

/*
 * Whether @s names a portal rather than a file: a scheme the library opens, or
 * a path that begins with /dev/portal.
 */
bool is_uri(const char *s);

/* Sorts @v; percentiles are nearest-rank. */
void sort_u64(uint64_t *v, size_t n);
void sort_double(double *v, size_t n);
/* Index of percentile @p (0 .. 100) in @n sorted values, @n > 0. */
size_t rank(size_t n, double p);

/* ---- place.c ---- */

/**
 * struct place - which portal, which channel in it, how long to wait
 * @uri: default_uri()
 * @side_set: --side was given; otherwise the command chooses
 * @vector_set: --vector was given; otherwise the portal's first
 * @timeout_ms: of one step of the other end; negative: for ever
 */
struct place {
	const char *uri;
	struct vmp_channel_opts ch;
	bool side_set;
	bool vector_set;
	int timeout_ms;
};

/* As an argp child: its input is a struct place. */
extern const struct argp place_argp;
void place_init(struct place *pl, uint32_t default_side);

/* An open portal with one open channel. */
struct link {
	struct vmp *p;
	struct vmp_channel *ch;
};

/* 0, or an exit code with the text printed. */
int link_open(struct link *l, const struct place *pl);
/* Waits for the other end; 0, or an exit code with the text printed. */
int link_wait(struct link *l, const struct place *pl, const char *who);
void link_close(struct link *l);

/**
 * struct one_portal - the arguments of a command about one portal: [URI], and of these options
 * those that it lists
 * @uri: what to open
 * @json: -j, print JSON
 * @all, @force: -a, -f
 */
struct one_portal {
	const char *uri;
	bool json, all, force;
};

/* For struct argp; the input is a struct one_portal, or begins with one. */
extern const struct argp_option one_portal_options[];
error_t parse_one_portal(int key, char *arg, struct argp_state *st);

/* Runs argp with portalctl's manners: exits 1 when the options are wrong. */
void parse_args(const struct argp *argp, int argc, char **argv, void *input);

/* ---- table.c ---- */

struct json_object;

enum column_kind { COL_TEXT, COL_NUMBER, COL_SIZE, COL_PEER };

struct column {
	const char *key;	/* in JSON */
	const char *title;	/* above the column */
	enum column_kind kind;
};

/* An array of objects as a table; missing members print as "-". */
void print_table(struct json_object *rows, const struct column *cols, size_t n);
/* One object, a line for each member that has a column. */
void print_record(struct json_object *row, const struct column *cols, size_t n);
void print_json(struct json_object *o);

/* What vmp_get_info() says, as an object; NULL: out of memory. */
struct json_object *info_json(const struct vmp_info *i);

/* dump.c: what vmp_get_layout() says, but for the directory's state. */
struct json_object *layout_json(const struct vmp_layout *l);

/* Adds the counts of a channel to an object. */
void add_stats(struct json_object *o, const struct vmp_channel *ch);

#endif /* PORTALCTL_TOOL_H */
