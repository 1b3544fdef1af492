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
        _ => None,
    });
    *chosen == Some(twin)
}

#[cfg(not(feature = "twins"))]
pub const fn is(_twin: Twin) -> bool {
    false
}
