//! Sending a service away from its database, for those who are to have it to themselves.

use std::sync::Arc;

use super::Service;

/// Keeps a service away from its database while it lives.
pub struct Away {
    service: Arc<Service>,
}

impl Away {
    pub(super) fn new(service: &Arc<Service>) -> Self {
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
