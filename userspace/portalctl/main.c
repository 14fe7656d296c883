// SPDX-License-Identifier: MIT
/* portalctl: the table of subcommands. */
#include <stdlib.h>
#include <string.h>

#include "tool.h"

static const struct command *const commands[] = {
	&cmd_list, &cmd_info, &cmd_send, &cmd_recv,
	&cmd_ping, &cmd_watch, &cmd_ring, &cmd_bench,
	&cmd_bind, &cmd_unbind, &cmd_exec,
	&cmd_format, &cmd_mode, &cmd_dump, &cmd_check,
	&cmd_ls, &cmd_create, &cmd_rm, &cmd_peers, &cmd_fence, &cmd_top,
};

#define N_COMMANDS	(sizeof(commands) / sizeof(*commands))

static void usage(FILE *f)
{
	fputs("Usage: portalctl COMMAND [OPTION...]\n"
	      "Memory that two or more machines share, from the command line.\n\n", f);
	for (size_t i = 0; i < N_COMMANDS; i++)
		fprintf(f, "  %-6s %s\n", commands[i]->name, commands[i]->summary);
	fputs("\nURI is /dev/portalN (default $VMPORTAL_URI or " DEFAULT_URI "),\n"
	      "unix:/run/vmportal/NAME.sock, file:PATH[?size=BYTES], memfd:fd=N or fd:N.\n"
	      "\"portalctl COMMAND --help\" says more.\n\n"
	      EXIT_CODES_DOC "\n", f);
}

static const struct command *find(const char *name)
{
	for (size_t i = 0; i < N_COMMANDS; i++)
		if (!strcmp(name, commands[i]->name))
			return commands[i];
	return NULL;
}

int main(int argc, char **argv)
{
	const struct command *c;
	static char name[32];

	if (argc < 2) {
		usage(stderr);
		return EX_MISUSE;
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		printf("portalctl %s\n", vmp_version());
		return EX_DONE;
	}
	if (!strcmp(argv[1], "help") && argc == 3) {
		static char help[] = "--help";

		argv[1] = argv[2];
		argv[2] = help;
	} else if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") ||
		   !strcmp(argv[1], "help")) {
		usage(stdout);
		return EX_DONE;
	}
	c = find(argv[1]);
	if (!c)
		return fail(EX_MISUSE, "no command \"%s\"; \"portalctl --help\" lists them",
			    argv[1]);
	/* argp prints argv[0] in its usage text. */
	snprintf(name, sizeof(name), "portalctl %s", c->name);
	argv[1] = name;
	return c->run(argc - 1, argv + 1);
}
