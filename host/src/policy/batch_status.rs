//! What a batch and its lead have become, from the counts of the batch's deliveries.

use crate::model::{BatchCounts, BatchStatus, LeadStatus};

/// The status of a batch with these counts. A batch without deliveries is completed: nothing is left to do.
pub fn batch_status(counts: &BatchCounts) -> BatchStatus {
    let reached = counts.delivered + counts.skipped;
    if counts.pending > 0 {
        BatchStatus::Pending
    } else if reached == counts.total {
        BatchStatus::Completed
    } else if reached > 0 {
        BatchStatus::Partial
    } else if counts.cancelled == counts.total {
        BatchStatus::Cancelled
    } else {
        BatchStatus::Failed
    }
}

/// The status of a lead whose newest batch has these counts. A lead has no word for "cancelled": none of it was
/// delivered, so it failed.
pub fn lead_status(counts: &BatchCounts) -> LeadStatus {
    if counts.total == 0 {
        return LeadStatus::Unrouted;
    }
    match batch_status(counts) {
        BatchStatus::Pending if counts.pending == counts.total => LeadStatus::Accepted,
        BatchStatus::Pending => LeadStatus::Processing,
        BatchStatus::Completed => LeadStatus::Completed,
        BatchStatus::Partial => LeadStatus::Partial,
        BatchStatus::Failed | BatchStatus::Cancelled => LeadStatus::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pending: u32, delivered: u32, skipped: u32, failed: u32, in_doubt: u32, cancelled: u32) -> BatchCounts {
        let total = pending + delivered + skipped + failed + in_doubt + cancelled;
        BatchCounts { total, pending, delivered, skipped, failed, in_doubt, cancelled }
    }

    #[test]
    fn every_kind_of_ending_has_its_word() {
        for (counts, batch, lead) in [
            (counts(2, 0, 0, 0, 0, 0), BatchStatus::Pending, LeadStatus::Accepted),
            (counts(1, 0, 0, 1, 0, 0), BatchStatus::Pending, LeadStatus::Processing),
            (counts(0, 2, 0, 0, 0, 0), BatchStatus::Completed, LeadStatus::Completed),
            (counts(0, 1, 1, 0, 0, 0), BatchStatus::Completed, LeadStatus::Completed),
            (counts(0, 0, 2, 0, 0, 0), BatchStatus::Completed, LeadStatus::Completed),
            (counts(0, 1, 0, 1, 0, 0), BatchStatus::Partial, LeadStatus::Partial),
            (counts(0, 0, 1, 0, 0, 1), BatchStatus::Partial, LeadStatus::Partial),
            (counts(0, 0, 0, 1, 0, 1), BatchStatus::Failed, LeadStatus::Failed),
            (counts(0, 0, 0, 0, 1, 0), BatchStatus::Failed, LeadStatus::Failed),
            (counts(0, 0, 0, 0, 0, 2), BatchStatus::Cancelled, LeadStatus::Failed),
            (counts(0, 0, 0, 0, 0, 0), BatchStatus::Completed, LeadStatus::Unrouted),
        ] {
            assert_eq!(batch_status(&counts), batch, "{counts:?}");
            assert_eq!(lead_status(&counts), lead, "{counts:?}");
        }
    }
}
