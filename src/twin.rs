//! Broken twins: builds of Forebay that each leave out one step which keeps answers right, so
//! that the consistency checker can be shown to notice. Only with the feature `twins`, which
//! nothing that ships has; without it every question here is a constant `false`.

/// What a twin leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    /// Answers are stored with the versions of the moment they are stored.
    NoVersionCheck,
    /// Tables are not in flight while a commit is on the wire.
    NoInFlight,
    /// Versions are noted when the answer to Bind comes, after the snapshot was taken.
    StampAtExecute,
    /// Clients with different roles share entries.
    KeyWithoutRole,
    /// A pipelined read is looked up when it arrives, behind answers still owed.
    PipelineLookupOnArrival,
    /// The writer hears of its commit before its tables are invalidated.
    AckBeforeInvalidation,
    /// In a group, what is not announced does not wait until every lease is over.
    NoLeaseCheck,
    /// In a group, what was agreed on and lost and formed anew passes for the old.
    NoIncarnationCheck,
    /// In a group, what a member left in flight is cleared when its process is gone, though its
    /// backends are not.
    MarksClearedAfterCrash,
    /// In a group, a commit does not wait until the others can know of it.
    AsynchronousInvalidation,
}

#[cfg(feature = "twins")]
pub fn is(twin: Twin) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<Twin>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| match std::env::var("FOREBAY_TWIN").ok()?.as_str() {
        "no_version_check" => Some(Twin::NoVersionCheck),
        "no_in_flight" => Some(Twin::NoInFlight),
        "stamp_at_execute" => Some(Twin::StampAtExecute),
        "key_without_role" => Some(Twin::KeyWithoutRole),
        "pipeline_lookup_on_arrival" => Some(Twin::PipelineLookupOnArrival),
        "ack_before_invalidation" => Some(Twin::AckBeforeInvalidation),
        "no_lease_check" => Some(Twin::NoLeaseCheck),
        "no_incarnation_check" => Some(Twin::NoIncarnationCheck),
        "marks_cleared_after_crash" => Some(Twin::MarksClearedAfterCrash),
        "asynchronous_invalidation" => Some(Twin::AsynchronousInvalidation),
        _ => None,
    });
    *chosen == Some(twin)
}

#[cfg(not(feature = "twins"))]
pub const fn is(_twin: Twin) -> bool {
    false
}
