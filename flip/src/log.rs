//! One line a transition: through `tracing`, and to stderr where the program has set no subscriber.

/// Says a line at a level of `tracing`.
macro_rules! say {
    ($level:ident, $($text:tt)+) => {
        if !$crate::log::heard(|| tracing::$level!(target: "flip", $($text)+)) {
            // Nobody listens to tracing, and a line about a restart must not get lost.
            $crate::log::print(format_args!($($text)+));
        }
    };
}
pub(crate) use say;

pub(crate) fn is_heard() -> bool {
    tracing::dispatcher::has_been_set()
}

/// Lets the program's subscriber hear a line; says whether it did. One that panics (its pipe may be closed) ends no service.
pub(crate) fn heard(line: impl FnOnce()) -> bool {
    is_heard() && std::panic::catch_unwind(std::panic::AssertUnwindSafe(line)).is_ok()
}

pub(crate) fn print(text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    // One write, so that lines of two processes do not mix; a closed stderr is no reason to fail.
    let _ = std::io::stderr().write_all(format!("flip: {text}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    #[test]
    fn subscriber_that_panics_ends_nothing() {
        struct Broken;
        impl tracing::Subscriber for Broken {
            fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
                true
            }
            fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
                tracing::span::Id::from_u64(1)
            }
            fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
            fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
            fn event(&self, _: &tracing::Event<'_>) {
                panic!("its pipe is closed");
            }
            fn enter(&self, _: &tracing::span::Id) {}
            fn exit(&self, _: &tracing::span::Id) {}
        }
        tracing::subscriber::with_default(Broken, || say!(info, "on stderr, then"));
    }
}
