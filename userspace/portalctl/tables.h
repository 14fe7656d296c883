/* SPDX-License-Identifier: MIT */
/* The tables of a managed portal as JSON: what dump, ls, peers and top show of them. */
#ifndef PORTALCTL_TABLES_H
#define PORTALCTL_TABLES_H

#include "tool.h"

struct json_object;

void add_u64(struct json_object *o, const char *key, uint64_t v);
void add_text(struct json_object *o, const char *key, const char *s);
/* Tokens, incarnations: as people compare them, and as no reader of JSON rounds them; not 0. */
void add_hex(struct json_object *o, const char *key, uint64_t v);
void add_time(struct json_object *o, const char *key, uint64_t ns);
void add_uuid(struct json_object *o, const char *key, const uint8_t *u, bool dashes);

const char *state_name(uint32_t state);
const char *reason_name(uint32_t reason);

static inline bool object_lives(const struct vmp_object *o)
{
	return o->state >= VMP_OBJECT_MAKING && o->state <= VMP_OBJECT_UNLINKED;
}

/* Opens a managed portal and says where all is; 0, or an exit code with the text printed. */
int open_managed(struct vmp **p, const char *uri, unsigned int flags, struct vmp_layout *l);

/* All rows that were ever used. */
struct json_object *peers_json(struct vmp *p, const struct vmp_layout *l);
struct json_object *sessions_json(struct vmp *p, const struct vmp_layout *l);
/* Those that live, each with the tokens of who has it open. */
struct json_object *objects_json(struct vmp *p, const struct vmp_layout *l);
struct json_object *directory_json(const struct vmp_layout *l);

#endif /* PORTALCTL_TABLES_H */
