/* The guest's interfaces, through rtnetlink. */
#ifndef TWINHULL_NET_H
#define TWINHULL_NET_H

#include "config.h"
#include "fault.h"

/* Once, before anything is known, so that it is in a template: loopback up, and no IPv6 before it is asked for. */
void net_prepare(void);

/* Every interface of the config found by its MAC, named, addressed, routed. */
int net_configure(const struct config *config, struct fault *fault);

/* Let the interfaces of `before` become those of `after`: what needn't go down stays up. */
int net_exchange(const struct config *before, const struct config *after, struct fault *fault);
/* Give the config's interfaces back: down, without addresses, with the template's MACs, so that `net_configure` finds them again. */
int net_release(const struct config *config, struct fault *fault);

/* Bytes that came in and went out through all interfaces but the loopback. */
void net_traffic(uint64_t traffic[2]);

#endif
