/* A guest that begins anew: as nobody's, after it was exercised, or as somebody else, after it was saved with its workload. */
#ifndef TWINHULL_ANEW_H
#define TWINHULL_ANEW_H

#include "state.h"

/* RESET: from an ended workload (or none) back to fresh, with nothing of it left. 0 or -1 with the fault set; then the guest is of no use. */
int anew_reset(struct guest *guest, struct fault *fault);
/* RESUME: another name, other interfaces, other contents of injected files for the workload that runs. As above. */
int anew_resume(struct guest *guest, const struct frame *frame, struct fault *fault);

#endif
