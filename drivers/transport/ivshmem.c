// SPDX-License-Identifier: GPL-2.0-only
/*
 * portal_ivshmem.ko: portals over QEMU's inter-VM shared memory device.
 *
 * PCI 1af4:1110, revision 1 (QEMU, docs/specs/ivshmem-spec.rst):
 *
 * BAR0  256 bytes of registers: IntrMask 0, IntrStatus 4, IVPosition 8 (this
 *	 machine's id), Doorbell 12 (a store of peer << 16 | vector rings)
 * BAR1  MSI-X table, on ivshmem-doorbell only
 * BAR2  the memory, any power of two
 *
 * ivshmem-plain has no doorbells and no id. What tells the two apart is MSI-X.
 * An ivshmem-doorbell with msi=off, which interrupts by INTx, is treated as plain:
 * INTx says neither how often nor which vector.
 *
 * The driver never reads or writes the memory.
 */
#include <linux/err.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/pm.h>
#include <linux/slab.h>

#include <linux/portal.h>

#include "../portal.h"

#define IVP_NAME		"portal_ivshmem"
#define IVP_DEVICE_ID		0x1110
#define IVP_REVISION		1

#define IVP_BAR_REGS		0
#define IVP_BAR_MEMORY		2

#define IVP_POSITION		8
#define IVP_DOORBELL		12
#define IVP_REGS_LEN		16

/*
 * Peer and vector are 16 bits each in the Doorbell register. But of the vector QEMU
 * looks at 8 bits only (hw/misc/ivshmem-pci.c, ivshmem_io_write()): 258 would ring 2.
 */
#define IVP_MAX_PEERS		0x10000
#define IVP_MAX_VECTORS		0x100

static bool relocate = true;
module_param(relocate, bool, 0444);
MODULE_PARM_DESC(relocate, "move the memory above 4 GiB if it is uncached where the firmware put it (default Y)");

struct ivp;

struct ivp_vector {
	struct ivp *ivp;
	u32 index;
};

/**
 * struct ivp - one device
 * @pdev: it
 * @regs: BAR0
 * @rest: reservation of what BAR0 leaves of its page, for the doorbell page
 * @portal: its portal
 * @doorbell: it has MSI-X, so there are doorbells
 * @nr_vectors: MSI-X vectors that could be had
 * @nr_irqs: of them, those requested
 * @vectors: one each
 */
struct ivp {
	struct pci_dev *pdev;
	void __iomem *regs;
	struct resource rest;
	struct portal *portal;
	bool doorbell;
	unsigned int nr_vectors;
	unsigned int nr_irqs;
	struct ivp_vector *vectors;
};

static int ivp_ring(void *priv, u32 peer, u32 vector)
{
	struct ivp *ivp = priv;

	if (peer >= IVP_MAX_PEERS || vector >= IVP_MAX_VECTORS)
		return -ENXIO;
	/* writel() orders it behind earlier stores to memory, the caller's included. */
	writel(peer << 16 | vector, ivp->regs + IVP_DOORBELL);
	return 0;
}

/* A device that was pulled out reads as all ones, and nobody knows what a bad one says. */
static u32 ivp_peer_id(void *priv)
{
	struct ivp *ivp = priv;
	u32 id = readl(ivp->regs + IVP_POSITION);

	return id < IVP_MAX_PEERS ? id : PORTAL_PEER_NONE;
}

static const struct portal_ops ivp_doorbell_ops = {
	.ring = ivp_ring,
	.peer_id = ivp_peer_id,
};

static const struct portal_ops ivp_plain_ops = {};

static irqreturn_t ivp_interrupt(int irq, void *data)
{
	struct ivp_vector *v = data;

	portal_event(v->ivp->portal, v->index);
	return IRQ_HANDLED;
}

/* Stores @decode as the device's "answers in memory space"; what it was before. */
static bool ivp_decode_memory(struct pci_dev *pdev, bool decode)
{
	u16 before, command;

	pci_read_config_word(pdev, PCI_COMMAND, &before);
	command = decode ? before | PCI_COMMAND_MEMORY : before & ~PCI_COMMAND_MEMORY;
	if (command != before)
		pci_write_config_word(pdev, PCI_COMMAND, command);
	return before & PCI_COMMAND_MEMORY;
}

/*
 * PC firmware likes to put BAR2 below 4 GiB, where an MTRR makes all device memory
 * uncached: right for registers, ruin for a region. So it moves; the PCI core
 * prefers an address above 4 GiB for a 64-bit BAR if the bus leads there. If not,
 * it stays where it was, and the core of portals says what that means.
 *
 * May it? No driver is bound but ours, and BARs are Linux's to assign. A process
 * may have mapped it by sysfs (resource2): requesting the region revokes that, as
 * it would a moment later in any case (CONFIG_IO_STRICT_DEVMEM, 5.12); so it faults
 * and is not left on an address that is no longer this device's. Somebody else's
 * request refuses ours, and then nothing moves. While the old range is free and the
 * new one is not yet had, the device answers at neither.
 *
 * Not under pci_lock_rescan_remove(): a hot-plug's probe has it already. So a
 * device plugged in at this moment may be given the old range; if there is then no
 * other one either, this device is left without memory, and probe fails.
 */
static void ivp_move_memory(struct pci_dev *pdev)
{
	struct resource *res = &pdev->resource[IVP_BAR_MEMORY];
	struct resource old = *res;
	bool decoded;

	if (!relocate || !(res->flags & IORESOURCE_MEM_64) || !res->parent ||
	    upper_32_bits(res->end) || !PAGE_ALIGNED(res->start) ||
	    portal_is_write_back(res->start))
		return;

	if (pci_request_region(pdev, IVP_BAR_MEMORY, IVP_NAME))
		return;
	pci_release_region(pdev, IVP_BAR_MEMORY);

	decoded = ivp_decode_memory(pdev, false);
	pci_release_resource(pdev, IVP_BAR_MEMORY);
	if (pci_assign_resource(pdev, IVP_BAR_MEMORY)) {
		/* The register was not touched: what it says is still right. */
		res->start = old.start;
		res->end = old.end;
		res->flags = old.flags;
		if (pci_claim_resource(pdev, IVP_BAR_MEMORY)) {
			dev_err(&pdev->dev, "BAR2 could not be had back: %pR\n", &old);
			return;
		}
	}
	ivp_decode_memory(pdev, decoded);
}

/* BAR2's place, or a word on what is wrong with it. */
static int ivp_find_memory(struct pci_dev *pdev, struct portal_extent *memory)
{
	struct resource *res = &pdev->resource[IVP_BAR_MEMORY];
	u64 len = pci_resource_len(pdev, IVP_BAR_MEMORY);

	if (!len || (res->flags & IORESOURCE_UNSET) || !(res->flags & IORESOURCE_MEM)) {
		dev_err(&pdev->dev, "BAR2, the shared memory, has no address: %pR; the bridge's window is too small (q35: pref64-reserve= of the root port)\n",
			res);
		return -ENODEV;
	}
	if (len < PAGE_SIZE || !PAGE_ALIGNED(res->start)) {
		dev_err(&pdev->dev, "BAR2, the shared memory, is no whole page: %pR; give it a size of %lu or more\n",
			res, PAGE_SIZE);
		return -ENODEV;
	}
	memory->start = res->start;
	memory->len = len & PAGE_MASK;
	return 0;
}

static int ivp_map_regs(struct ivp *ivp)
{
	struct pci_dev *pdev = ivp->pdev;

	if (!(pci_resource_flags(pdev, IVP_BAR_REGS) & IORESOURCE_MEM) ||
	    pci_resource_len(pdev, IVP_BAR_REGS) < IVP_REGS_LEN) {
		dev_err(&pdev->dev, "BAR0, the registers, is not there\n");
		return -ENODEV;
	}
	ivp->regs = pci_iomap(pdev, IVP_BAR_REGS, 0);
	if (!ivp->regs)
		return -ENOMEM;
	return 0;
}

/*
 * Fewer vectors than the device has are better than none, and none better than
 * no memory: -ENOSPC from the interrupt controller is not the user's fault.
 */
static void ivp_alloc_vectors(struct ivp *ivp)
{
	struct pci_dev *pdev = ivp->pdev;
	int have = pci_msix_vec_count(pdev);
	int got;

	if (have <= 0)
		return;
	ivp->doorbell = true;

	/* Those behind IVP_MAX_VECTORS nobody could ring. */
	got = pci_alloc_irq_vectors(pdev, 1, min(have, IVP_MAX_VECTORS), PCI_IRQ_MSIX);
	if (got < 0) {
		dev_warn(&pdev->dev, "no interrupt vector (%d): can ring, but not be rung\n", got);
		return;
	}
	if (got < have)
		dev_warn(&pdev->dev, "%d of %d interrupt vectors: rings to the others are lost\n",
			 got, have);
	ivp->nr_vectors = got;
}

static void ivp_free_irqs(struct ivp *ivp)
{
	while (ivp->nr_irqs) {
		ivp->nr_irqs--;
		pci_free_irq(ivp->pdev, ivp->nr_irqs, &ivp->vectors[ivp->nr_irqs]);
	}
}

static int ivp_request_irqs(struct ivp *ivp)
{
	int ret;
	u32 i;

	if (!ivp->nr_vectors)
		return 0;
	ivp->vectors = kcalloc(ivp->nr_vectors, sizeof(*ivp->vectors), GFP_KERNEL);
	if (!ivp->vectors)
		return -ENOMEM;

	for (i = 0; i < ivp->nr_vectors; i++) {
		ivp->vectors[i].ivp = ivp;
		ivp->vectors[i].index = i;
		ret = pci_request_irq(ivp->pdev, i, ivp_interrupt, NULL, &ivp->vectors[i],
				      IVP_NAME "-%s-%u", pci_name(ivp->pdev), i);
		if (ret) {
			ivp_free_irqs(ivp);
			kfree(ivp->vectors);
			return ret;
		}
		ivp->nr_irqs++;
	}
	return 0;
}

/*
 * The page that holds BAR0, if user space may have it: BAR0 must begin it, and
 * what BAR0 leaves of it must belong to nobody and stay so, for a device plugged
 * in later might be put there. What else can be done through it: nothing.
 * IntrMask and IntrStatus drive INTx, which a device with MSI-X does not have;
 * IVPosition is read-only; the rest of BAR0 ignores stores.
 */
static phys_addr_t ivp_doorbell_page(struct ivp *ivp)
{
	struct resource *res = &ivp->pdev->resource[IVP_BAR_REGS];

	if (!ivp->doorbell || !PAGE_ALIGNED(res->start))
		return 0;
	if (resource_size(res) >= PAGE_SIZE)
		return res->start;
	if (!res->parent)
		return 0;

	ivp->rest = (struct resource) {
		.name = IVP_NAME " rest of page",
		.start = res->end + 1,
		.end = res->start + PAGE_SIZE - 1,
		/* Busy: or a driver's request would nest in it. */
		.flags = res->flags | IORESOURCE_BUSY,
	};
	if (request_resource(res->parent, &ivp->rest)) {
		ivp->rest.parent = NULL;
		return 0;
	}
	return res->start;
}

static void ivp_release_page(struct ivp *ivp)
{
	if (ivp->rest.parent)
		release_resource(&ivp->rest);
}

static struct portal *ivp_alloc_portal(struct ivp *ivp, const struct portal_extent *memory)
{
	char identity[PORTAL_IDENTITY_LEN];
	struct portal_desc desc = {
		.ops = ivp->doorbell ? &ivp_doorbell_ops : &ivp_plain_ops,
		.parent = &ivp->pdev->dev,
		.transport = "ivshmem",
		.identity = identity,
		.extents = memory,
		.nr_extents = 1,
		.vectors = ivp->nr_vectors,
		.max_peers = ivp->doorbell ? IVP_MAX_PEERS : 0,
	};

	snprintf(identity, sizeof(identity), "pci-%s", pci_name(ivp->pdev));
	desc.doorbell_page = ivp_doorbell_page(ivp);
	if (desc.doorbell_page) {
		desc.doorbell_format = PORTAL_DOORBELL_IVSHMEM;
		desc.doorbell_register = IVP_DOORBELL;
	}
	return portal_alloc(&desc, ivp);
}

/* What needs the device to be enabled and its regions to be ours. */
static int ivp_start(struct ivp *ivp)
{
	struct pci_dev *pdev = ivp->pdev;
	struct portal_extent memory;
	int ret;

	ret = ivp_find_memory(pdev, &memory);
	if (ret)
		return ret;
	ret = ivp_map_regs(ivp);
	if (ret)
		return ret;

	pci_set_master(pdev);
	ivp_alloc_vectors(ivp);
	ivp->portal = ivp_alloc_portal(ivp, &memory);
	if (IS_ERR(ivp->portal)) {
		ret = PTR_ERR(ivp->portal);
		goto err_vectors;
	}
	ret = ivp_request_irqs(ivp);
	if (ret)
		goto err_portal;
	ret = portal_add(ivp->portal);
	if (ret)
		goto err_irqs;

	dev_info(&pdev->dev, "portal%d: %llu bytes, %u vectors\n", portal_number(ivp->portal),
		 memory.len, ivp->nr_vectors);
	return 0;

err_irqs:
	ivp_free_irqs(ivp);
	kfree(ivp->vectors);
err_portal:
	portal_put(ivp->portal);
err_vectors:
	ivp_release_page(ivp);
	if (ivp->nr_vectors)
		pci_free_irq_vectors(pdev);
	pci_clear_master(pdev);
	pci_iounmap(pdev, ivp->regs);
	return ret;
}

static int ivp_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct ivp *ivp;
	int ret;

	if (pdev->revision != IVP_REVISION) {
		dev_err(&pdev->dev, "revision %u of ivshmem; only %u is supported (QEMU 2.6 and later: ivshmem-plain, ivshmem-doorbell)\n",
			pdev->revision, IVP_REVISION);
		return -ENODEV;
	}

	ivp = kzalloc(sizeof(*ivp), GFP_KERNEL);
	if (!ivp)
		return -ENOMEM;
	ivp->pdev = pdev;
	pci_set_drvdata(pdev, ivp);

	ivp_move_memory(pdev);
	ret = pci_enable_device_mem(pdev);
	if (ret)
		goto err_free;
	ret = pci_request_regions(pdev, IVP_NAME);
	if (ret)
		goto err_disable;
	ret = ivp_start(ivp);
	if (ret)
		goto err_release;
	return 0;

err_release:
	pci_release_regions(pdev);
err_disable:
	pci_disable_device(pdev);
err_free:
	kfree(ivp);
	return ret;
}

/* Also when the device is there no more: stores go nowhere then, loads give ones. */
static void ivp_remove(struct pci_dev *pdev)
{
	struct ivp *ivp = pci_get_drvdata(pdev);

	portal_remove(ivp->portal);
	ivp_free_irqs(ivp);
	kfree(ivp->vectors);
	portal_put(ivp->portal);
	ivp_release_page(ivp);
	if (ivp->nr_vectors)
		pci_free_irq_vectors(pdev);
	pci_clear_master(pdev);
	pci_iounmap(pdev, ivp->regs);
	pci_release_regions(pdev);
	pci_disable_device(pdev);
	kfree(ivp);
}

/* While the device is reset its BARs do not answer: loads give ones, stores are lost. */
static void ivp_reset_prepare(struct pci_dev *pdev)
{
	struct ivp *ivp = pci_get_drvdata(pdev);

	portal_pause(ivp->portal);
}

/* The PCI core has restored BARs and MSI-X. */
static void ivp_reset_done(struct pci_dev *pdev)
{
	struct ivp *ivp = pci_get_drvdata(pdev);

	portal_resume(ivp->portal);
}

static const struct pci_error_handlers ivp_err_handlers = {
	.reset_prepare = ivp_reset_prepare,
	.reset_done = ivp_reset_done,
};

static int __maybe_unused ivp_suspend(struct device *dev)
{
	struct ivp *ivp = dev_get_drvdata(dev);

	portal_pause(ivp->portal);
	return 0;
}

/* After hibernation this may be another QEMU, with another id and other peers. */
static int __maybe_unused ivp_resume(struct device *dev)
{
	struct ivp *ivp = dev_get_drvdata(dev);

	portal_resume(ivp->portal);
	return 0;
}

static SIMPLE_DEV_PM_OPS(ivp_pm_ops, ivp_suspend, ivp_resume);

static const struct pci_device_id ivp_ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_REDHAT_QUMRANET, IVP_DEVICE_ID) },
	{ }
};
MODULE_DEVICE_TABLE(pci, ivp_ids);

static struct pci_driver ivp_driver = {
	.name = IVP_NAME,
	.id_table = ivp_ids,
	.probe = ivp_probe,
	.remove = ivp_remove,
	.err_handler = &ivp_err_handlers,
	.driver.pm = &ivp_pm_ops,
};
module_pci_driver(ivp_driver);

MODULE_DESCRIPTION("Portals over QEMU's ivshmem device");
MODULE_LICENSE("GPL");
MODULE_VERSION(PORTAL_VERSION);
