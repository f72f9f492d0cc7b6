/* Whether the processor has the instructions that all this was compiled with. */
#ifndef PROCESSOR_H
#define PROCESSOR_H

/* The first thing that is missing, by its name in /proc/cpuinfo; NULL where nothing is, or where nobody can tell. */
const char *processor_lacks(void);

#endif
