/* DPDK's ring exists as inline functions only: what `dpdk_ring.rs` calls of them.
 *
 * One producer and one consumer. A function for each small element, so that the compiler knows
 * its size, for one element and for many; and the calls that reserve elements in place.
 */

#include <assert.h>
#include <stddef.h>

#include <rte_ring.h>
#include <rte_ring_elem.h>
#include <rte_ring_peek_zc.h>

int laneway_dpdk_init(struct rte_ring *ring, unsigned int count)
{
	return rte_ring_init(ring, "laneway", count, RING_F_SP_ENQ | RING_F_SC_DEQ);
}

/* All of them return how many elements were moved. */
#define SIZED(BYTES)                                                                           \
	unsigned int laneway_dpdk_enqueue_##BYTES(struct rte_ring *ring, const void *element)  \
	{                                                                                      \
		return rte_ring_sp_enqueue_elem(ring, (void *)element, BYTES) == 0;            \
	}                                                                                      \
	unsigned int laneway_dpdk_dequeue_##BYTES(struct rte_ring *ring, void *element)        \
	{                                                                                      \
		return rte_ring_sc_dequeue_elem(ring, element, BYTES) == 0;                    \
	}                                                                                      \
	unsigned int laneway_dpdk_enqueue_burst_##BYTES(struct rte_ring *ring,                 \
							const void *elements, unsigned int n)  \
	{                                                                                      \
		return rte_ring_sp_enqueue_burst_elem(ring, elements, BYTES, n, NULL);         \
	}                                                                                      \
	unsigned int laneway_dpdk_dequeue_burst_##BYTES(struct rte_ring *ring, void *elements, \
							unsigned int n)                        \
	{                                                                                      \
		return rte_ring_sc_dequeue_burst_elem(ring, elements, BYTES, n, NULL);         \
	}

SIZED(8)
SIZED(56)
SIZED(64)
SIZED(256)
SIZED(1024)
SIZED(4096)

/* `Span` in `dpdk_ring.rs` is this structure. */
static_assert(sizeof(struct rte_ring_zc_data) == 64, "size");
static_assert(_Alignof(struct rte_ring_zc_data) == 64, "alignment");
static_assert(offsetof(struct rte_ring_zc_data, ptr1) == 0, "ptr1");
static_assert(offsetof(struct rte_ring_zc_data, ptr2) == 8, "ptr2");
static_assert(offsetof(struct rte_ring_zc_data, n1) == 16, "n1");

unsigned int laneway_dpdk_start_enqueue(struct rte_ring *ring, unsigned int bytes, unsigned int n,
					struct rte_ring_zc_data *span)
{
	return rte_ring_enqueue_zc_burst_elem_start(ring, bytes, n, span, NULL);
}

void laneway_dpdk_finish_enqueue(struct rte_ring *ring, unsigned int n)
{
	rte_ring_enqueue_zc_elem_finish(ring, n);
}

unsigned int laneway_dpdk_start_dequeue(struct rte_ring *ring, unsigned int bytes, unsigned int n,
					struct rte_ring_zc_data *span)
{
	return rte_ring_dequeue_zc_burst_elem_start(ring, bytes, n, span, NULL);
}

void laneway_dpdk_finish_dequeue(struct rte_ring *ring, unsigned int n)
{
	rte_ring_dequeue_zc_elem_finish(ring, n);
}
