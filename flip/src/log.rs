//! One line a transition: through `tracing`, and to stderr where the program has set no subscriber.

/// Says a line at a level of `tracing`.
macro_rules! say {
    ($level:ident, $($text:tt)+) => {
        if $crate::log::is_heard() {
            tracing::$level!(target: "flip", $($text)+);
        } else {
            // Nobody listens to tracing, and a line about a restart must not get lost.
            $crate::log::print(format_args!($($text)+));
        }
    };
}
pub(crate) use say;

pub(crate) fn is_heard() -> bool {
    tracing::dispatcher::has_been_set()
}

pub(crate) fn print(text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    // One write, so that lines of two processes do not mix; a closed stderr is no reason to fail.
    let _ = std::io::stderr().write_all(format!("flip: {text}\n").as_bytes());
}
