//! Faults between the product and its snapshot storage, for a simulator. A process that sets none pays one look at an
//! empty place per call.

use crate::StorageError;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// What becomes of one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fate {
    /// It takes so much longer.
    pub delay: Duration,
    /// It fails without having had an effect.
    pub fails_before: bool,
    /// It does what was asked and fails.
    pub fails_after: bool,
}

type Decide = Box<dyn FnMut(&str, &str) -> Fate + Send>;

static DECIDE: OnceLock<Mutex<Option<Decide>>> = OnceLock::new();

/// From now on `decide` is asked what becomes of a call, by its action and path; `None` leaves them alone again.
#[doc(hidden)]
pub fn set_faults(decide: Option<Decide>) {
    let place = DECIDE.get_or_init(Mutex::default);
    *place.lock().unwrap_or_else(PoisonError::into_inner) = decide;
}

pub(crate) fn fate(action: &str, path: &str) -> Fate {
    let Some(place) = DECIDE.get() else {
        return Fate::default();
    };
    let mut decide = place.lock().unwrap_or_else(PoisonError::into_inner);
    decide
        .as_mut()
        .map_or_else(Fate::default, |decide| decide(action, path))
}

pub(crate) fn failed(action: &str, path: &str) -> StorageError {
    StorageError::Unavailable(format!("cannot {action} '{path}': the simulated storage fails"))
}
