//! Sending a service away from its database, for those who are to have it to themselves.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Service;

/// Keeps a service away from its database while it lives.
pub struct Away {
    service: Arc<Service>,
}

impl Away {
    fn new(service: &Arc<Service>) -> Self {
        Self { service: Arc::clone(service) }
    }

    /// Resolves when its connection is closed. Cancel-safe.
    pub async fn is_gone(&self) {
        let mut connected = self.service.connected.subscribe();
        // The sender is the service's, which we hold.
        let _is_gone = connected.wait_for(|connected| !connected).await.is_ok();
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.service.come_back();
    }
}

impl Service {
    /// While a database is paused its operator may do anything to it, and nobody is to be in the
    /// way: we leave it, and know nothing of it until we are back.
    pub fn set_paused(&self, paused: bool) {
        if self.paused.swap(paused, Ordering::Relaxed) == paused {
            return;
        }
        if paused {
            self.away.send_modify(|count| *count += 1);
            self.forget();
        } else {
            self.come_back();
        }
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Paused and not connected.
    pub fn is_away(&self) -> bool {
        self.is_paused() && !*self.connected.borrow()
    }

    /// Has it close its connection and not come back while the guard lives.
    pub fn send_away(self: &Arc<Self>) -> Away {
        self.away.send_modify(|count| *count += 1);
        Away::new(self)
    }

    fn come_back(&self) {
        self.away.send_modify(|count| *count -= 1);
        self.wake.notify_one();
    }
}
