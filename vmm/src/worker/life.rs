//! The end of a guest: the first cause that this node learns of, whoever brings it.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::info;

use crate::control::ending::EndCause;

/// For how long a lost data connection may be explained by an end that is on its way.
const EXPLANATION_LIMIT: Duration = Duration::from_millis(500);

/// Whether the guest has come to its end, and why.
#[derive(Debug, Default)]
pub struct Life {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    cause: Option<EndCause>,
    /// The connection on which the main thread waits for orders.
    wake: Option<TcpStream>,
}

impl Life {
    /// Ends the guest for `cause`, unless it has ended already. Does not wait.
    pub fn end(&self, cause: EndCause) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.cause.is_some() {
            return;
        }
        info!("the guest ends: {cause}");
        state.cause = Some(cause);
        if let Some(orders) = state.wake.take() {
            // The main thread reads the end of the stream and looks at the cause.
            let _already = orders.shutdown(Shutdown::Read);
        }
    }

    /// Ends the guest for `cause` in a moment, unless by then another cause has come: one that explains this
    /// one.
    pub fn end_unless_explained(self: &Arc<Self>, cause: EndCause) {
        let life = self.clone();
        let fallback = cause.clone();
        let wait = move || {
            std::thread::sleep(EXPLANATION_LIMIT);
            life.end(cause);
        };
        if std::thread::Builder::new().name("life".into()).spawn(wait).is_err() {
            self.end(fallback);
        }
    }

    /// Why the guest has ended, if it has.
    pub fn cause(&self) -> Option<EndCause> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).cause.clone()
    }

    /// Names the connection whose reading is to be cut short by the end.
    pub fn wake_reader_of(&self, orders: TcpStream) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.cause.is_some() {
            let _already = orders.shutdown(Shutdown::Read);
        } else {
            state.wake = Some(orders);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ending::StopReason;

    #[test]
    fn the_first_cause_stays() {
        let life = Arc::new(Life::default());
        life.end_unless_explained(EndCause::Panic);
        assert_eq!(life.cause(), None);
        life.end(EndCause::PowerOff);
        life.end(EndCause::Stopped(StopReason::Command));
        std::thread::sleep(EXPLANATION_LIMIT + Duration::from_millis(100));
        assert_eq!(life.cause(), Some(EndCause::PowerOff));
    }

    #[test]
    fn an_unexplained_loss_ends_the_guest_in_a_moment() {
        let life = Arc::new(Life::default());
        life.end_unless_explained(EndCause::Panic);
        for _ in 0..100 {
            if life.cause().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("still alive");
    }
}
