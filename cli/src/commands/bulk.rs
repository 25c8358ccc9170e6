//! Commands that take several names: each stands for itself, a failure of one does not keep the others. Also what such
//! failures may add: the name that was meant, the certificate that is needed.

use orch_proto::codes::ErrorCode;

use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::session::Session;
use crate::suggest::did_you_mean;

/// Does something for each name, in order, and says how the command exits. A single name's failure is the command's
/// own; of several, each is told, and some that failed make the exit code for it.
pub(super) async fn each<T>(
    session: &Session,
    names: &[String],
    work: impl AsyncFn(&str) -> Outcome<T>,
) -> Outcome<(Vec<T>, u8)> {
    let mut done = Vec::new();
    let mut code = exit::DONE;
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            continue;
        }
        match work(name).await {
            Ok(result) => done.push(result),
            Err(failure) if names.len() == 1 => return Err(failure),
            Err(failure) => {
                session.out.failure(&failure);
                code = exit::SOME_FAILED;
            }
        }
    }
    Ok((done, code))
}

/// Adds the name that may have been meant, unless the coordinator did.
pub(super) async fn explained(
    failure: Failure,
    name: &str,
    known: impl AsyncFnOnce() -> Outcome<Vec<String>>,
) -> Failure {
    if failure.exit_code() != exit::NOT_FOUND || failure.message().contains("did you mean") {
        return failure;
    }
    let Ok(known) = known().await else { return failure };
    let meant = did_you_mean(name, known.iter().map(String::as_str));
    match (meant.is_empty(), known.is_empty()) {
        (false, _) => failure.help(meant),
        (true, false) => failure.help(format!("there is: {}", listed(&known))),
        (true, true) => failure,
    }
}

/// Says which certificate may do what was refused.
pub(super) fn needs_admin(failure: Failure) -> Failure {
    if failure.code() != Some(ErrorCode::RoleNotAllowed.code()) {
        return failure;
    }
    failure
        .help("this needs the certificate of role admin: --tls-cert DIR/admin.pem --tls-key DIR/admin.key")
        .and_help("if there is none yet: orchctl certs issue --role admin --name NAME --out DIR, where the authority is")
}

/// Names for a sentence, not too many.
pub(super) fn listed(names: &[String]) -> String {
    const MOST: usize = 12;
    let shown = names.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > MOST { format!("{shown} and {} more", names.len() - MOST) } else { shown }
}
