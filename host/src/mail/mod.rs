//! Mail submission.
