//! The one question there is: yes or no. Knows who may be asked; refuses to know what it is about.

use std::io::{BufRead, IsTerminal};

use tokio::task::JoinSet;

use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::settings::Asking;

/// Asks on stderr and reads the answer from stdin; anything but yes is no. `what` says what is about to happen, for the
/// refusal where nobody can be asked.
///
/// # Errors
/// Nobody is there to answer.
pub(crate) fn agreed(out: &Out, question: &str, what: &str) -> Outcome<bool> {
    match out.asking {
        Asking::Yes => Ok(true),
        Asking::Never => Err(refused(what, "nobody may be asked (--no-input, or CI in the environment)")),
        Asking::Ask if !std::io::stdin().is_terminal() => Err(refused(what, "stdin is no terminal")),
        Asking::Ask => {
            // A question nobody can see gets no answer, which is no.
            let _ = out.stderr().write(format!("{question} [y/N] ").as_bytes());
            let mut answer = String::new();
            let read = std::io::stdin().lock().read_line(&mut answer);
            Ok(read.is_ok() && is_yes(&answer))
        }
    }
}

/// The same for a command that is under way: a signal ends the wait for an answer.
///
/// # Errors
/// Nobody is there to answer.
pub(crate) async fn agreed_meanwhile(out: &Out, question: &str, what: &str) -> Outcome<bool> {
    let (out, question, what) = (out.clone(), question.to_owned(), what.to_owned());
    let mut asking = JoinSet::new();
    asking.spawn_blocking(move || agreed(&out, &question, &what));
    match asking.join_next().await {
        Some(Ok(answer)) => answer,
        // It can only have panicked; then nobody agreed.
        Some(Err(_)) | None => Ok(false),
    }
}

fn refused(what: &str, why: &str) -> Failure {
    Failure::usage(format!("{what}, and {why}")).help("add --yes")
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;
    use crate::settings::Settings;

    #[test]
    fn only_yes_is_yes() {
        assert!(is_yes("y\n") && is_yes(" Yes\n"));
        assert!(!is_yes("\n") && !is_yes("n") && !is_yes("yesterday"));
    }

    #[test]
    fn consent_can_be_given_before_or_ruled_out() {
        let ask = |asking| {
            let settings = Settings { asking, ..Settings::default() };
            agreed(&testing::with(&settings, testing::Look::default()).0, "Go on?", "this costs money")
        };
        assert!(ask(Asking::Yes).unwrap());
        let failure = ask(Asking::Never).unwrap_err();
        assert_eq!(failure.exit_code(), crate::exit::USAGE);
        assert!(
            failure.text(false).contains("this costs money, and nobody may be asked"),
            "{}",
            failure.text(false)
        );
    }
}
