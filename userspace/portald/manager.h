/* SPDX-License-Identifier: MIT */
#ifndef PORTALD_MANAGER_H
#define PORTALD_MANAGER_H

#include <stdbool.h>

/*
 * SIGTERM: does systemd stop this service for good? (It asks to end in the same way when
 * it restarts one, and tells by its bus only.) False, too, if it cannot be asked: then all
 * stays as it is, and what is kept goes when systemd lets go of it.
 */
bool manager_stops_us(void);

#endif
