/* The guest's interfaces, through rtnetlink. */
#ifndef TWINHULL_NET_H
#define TWINHULL_NET_H

#include "config.h"
#include "fault.h"

/* Loopback up; every interface of the config found by its MAC, named, addressed, routed. */
int net_configure(const struct config *config, struct fault *fault);

#endif
