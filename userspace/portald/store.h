/* SPDX-License-Identifier: MIT */
/*
 * Descriptors that outlive this process: the service manager keeps them (systemd's file
 * descriptor store, or keeper.c, to which a socket leads that nobody else has), and passes them
 * to the next one. Each is named "vmportal/PORTAL/WHAT".
 *
 * Several that belong together travel as a bundle, which is one: a socket in whose queue
 * they wait to be received. So there are few for the manager (whose list of names must
 * fit into the environment, and who compares each new one with all it has).
 */
#ifndef PORTALD_STORE_H
#define PORTALD_STORE_H

#include <stdbool.h>

/* In the environment of a daemon that keeper.c has started: the number of its socket. */
#define STORE_KEEPER "PORTALD_KEEPER"

/* Is there a service manager? Call once, first. */
void store_init(void);
bool store_on(void);
/*
 * This start has failed. Do an earlier portald's descriptors wait for another try? Then, and
 * if it is systemd that tries without end, after a pause.
 */
bool store_waits(void);

/* The socket to the keeper, which hangs up when that has ended; -1: none. */
int store_keeper(void);
/* It has: nothing is kept from now on. */
void store_lost(void);

/* Tells the manager lines of sd_notify(3). */
void store_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* One that was passed, if its name says that it is the store's: true, and it is taken in. */
bool store_inherit(int fd, const char *name);

/* Keeps @n descriptors under that name, as a bundle if @n > 1; 0 or -errno. */
int store_put(const char *portal, const char *what, const int *fds, unsigned int n);
void store_drop(const char *portal, const char *what);

/* One that was passed, or -1: there is none. The caller's. */
int store_take(const char *portal, const char *what);
/* The same of a bundle: how many, at most @max; 0: there is none, or it is no bundle. */
unsigned int store_take_bundle(const char *portal, const char *what, int *fds, unsigned int max);

/* Was anything passed, of that portal or (NULL) of any? */
bool store_had(const char *portal);

/* What was passed and not taken is dropped; @portal NULL: of all. How many. */
unsigned int store_sweep(const char *portal);

#endif
