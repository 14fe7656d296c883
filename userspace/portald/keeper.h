/* SPDX-License-Identifier: MIT */
#ifndef PORTALD_KEEPER_H
#define PORTALD_KEEPER_H

/*
 * portald --keep, where no service manager has a descriptor store: runs the daemon as a
 * child, keeps what it stores, and starts it again when it was killed, or ended for another
 * (SIGUSR1). @argv: also the daemon's. Returns an exit code.
 */
int keep(char **argv);

#endif
