//! Where a workflow comes from, and what it is called with: a file or a name, parameters of flags and files.
//! Knows files and flags; refuses to know what a parameter does.

use std::path::Path;

use orch_proto::v1::WorkflowCall;
use serde_json::{Map, Value};

use crate::args::parse::on_failure_word;
use crate::args::submit::Whole;
use crate::args::workflows::Given;
use crate::client::Client;
use crate::commands::submit::{read_file, stdin};
use crate::failure::{Failure, Outcome};
use crate::runfile::workflow::with_fields;
use crate::suggest::did_you_mean;

/// Largest file of a workflow or its parameters, above what the coordinator takes, which says so itself.
const MAX_BYTES: u64 = 64 << 20;

/// A workflow that somebody means.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Of a workflow of the coordinator its name, else the file.
    pub(crate) shown: String,
    /// The definition, where it is at hand.
    text: Option<String>,
    is_file: bool,
}

impl Source {
    /// A file that was named as such.
    pub(crate) fn file(path: &Path) -> Outcome<Self> {
        let (shown, bytes) = if path.as_os_str() == "-" {
            ("<stdin>".to_owned(), stdin("a workflow as JSON", MAX_BYTES)?)
        } else {
            (path.display().to_string(), read_file(path, MAX_BYTES)?)
        };
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
            Failure::usage(format!("{shown}:{line}: the file is not UTF-8 from here on"))
        })?;
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        Ok(Self { shown, text: Some(text), is_file: true })
    }

    /// A workflow of the coordinator.
    pub(crate) fn named(name: &str) -> Self {
        Self { shown: name.to_owned(), text: None, is_file: false }
    }

    /// A definition made here.
    pub(crate) fn made(shown: String, text: String) -> Self {
        Self { shown, text: Some(text), is_file: true }
    }

    /// What a flag or an argument of its own names.
    pub(crate) fn either(name: Option<&str>, file: Option<&Path>) -> Outcome<Self> {
        match (name, file) {
            (_, Some(file)) => Self::file(file),
            (Some(name), None) => Self::guessed(name),
            (None, None) => Err(Failure::usage("no workflow is named").help("orchctl workflows lists them")),
        }
    }

    /// A file if the word looks like one, else a name.
    pub(crate) fn guessed(word: &str) -> Outcome<Self> {
        let path = Path::new(word);
        let looks = word == "-" || word.contains('/') || word.ends_with(".json");
        if looks || path.is_file() { Self::file(path) } else { Ok(Self::named(word)) }
    }

    /// The definition, fetched if it has to be.
    pub(crate) async fn text(&mut self, client: &Client) -> Outcome<&str> {
        if self.text.is_none() {
            self.text = Some(client.workflow(&self.shown).await?.definition);
        }
        Ok(self.text.as_deref().unwrap_or_default())
    }

    /// The definition if it is at hand.
    pub(crate) fn at_hand(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// What flags say of the whole in place of what the definition says: flags win. Fetches it only where it has to.
    pub(crate) async fn overridden(mut self, client: &Client, whole: &Whole) -> Outcome<Self> {
        if !fields(whole).is_empty() {
            self.text(client).await?;
        }
        Ok(self.with(whole))
    }

    /// The same of a definition that is at hand.
    pub(crate) fn with(self, whole: &Whole) -> Self {
        let fields = fields(whole);
        match &self.text {
            Some(text) if !fields.is_empty() => {
                Self { text: Some(with_fields(text, &fields)), is_file: true, ..self }
            }
            Some(_) | None => self,
        }
    }

    /// The call with these parameters.
    pub(crate) fn call(&self, parameters: &Map<String, Value>) -> WorkflowCall {
        let parameters =
            if parameters.is_empty() { String::new() } else { Value::Object(parameters.clone()).to_string() };
        match (&self.text, self.is_file) {
            (Some(text), true) => WorkflowCall {
                name: String::new(),
                definition: text.clone(),
                source: self.shown.clone(),
                parameters,
            },
            (_, _) => WorkflowCall { name: self.shown.clone(), parameters, ..WorkflowCall::default() },
        }
    }
}

/// What flags say of the whole, as fields of a definition.
fn fields(whole: &Whole) -> Vec<(&'static str, String)> {
    let text = |text: &str| Value::from(text).to_string();
    let fields = [
        ("workspace", whole.workspace.as_deref().map(text)),
        ("on_failure", whole.on_failure.map(|policy| text(on_failure_word(policy)))),
        ("max_parallel", whole.max_parallel.map(|most| most.to_string())),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// The parameters that flags give.
pub(crate) fn parameters(given: &Given) -> Outcome<Map<String, Value>> {
    let mut all = match &given.params {
        None => Map::new(),
        Some(path) => {
            let shown = path.display().to_string();
            let bytes = if shown == "-" {
                stdin("parameters as JSON", MAX_BYTES)?
            } else {
                read_file(path, MAX_BYTES)?
            };
            match serde_json::from_slice(&bytes) {
                Ok(Value::Object(members)) => members,
                Ok(_) => return Err(Failure::usage(format!("{shown} is not a JSON object of parameters"))),
                Err(error) => {
                    let place = format!("{shown}:{}:{}", error.line(), error.column());
                    return Err(Failure::usage(format!("{place}: the parameters are not JSON")).cause(error));
                }
            }
        }
    };
    for (name, text) in &given.set {
        let value = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str()));
        all.insert(name.clone(), value);
    }
    Ok(all)
}

/// Names of all workflows.
pub(crate) async fn names(client: &Client) -> Outcome<Vec<String>> {
    Ok(client.workflows().await?.workflows.into_iter().map(|workflow| workflow.name).collect())
}

/// The one roster parameter that is not given otherwise.
pub(crate) fn roster_parameter(definition: &Value, given: &Map<String, Value>) -> Outcome<String> {
    let rosters = rosters(definition, given);
    match rosters.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Failure::usage("the workflow has no roster parameter for the rows of --roster")
            .help("orchctl batch makes its tasks once for each row")),
        [..] => Err(several(&rosters)),
    }
}

/// The roster parameters that are not given otherwise.
pub(crate) fn rosters(definition: &Value, given: &Map<String, Value>) -> Vec<String> {
    let declared = definition["parameters"].as_object().into_iter().flatten();
    let rosters = declared.filter(|(name, about)| about["type"] == "roster" && !given.contains_key(*name));
    rosters.map(|(name, _)| name.clone()).collect()
}

/// There are several roster parameters, and one roster.
pub(crate) fn several(rosters: &[String]) -> Failure {
    Failure::usage(format!("the workflow has several roster parameters: {}", rosters.join(", ")))
        .help("give the others with --set NAME=JSON or --params FILE")
}

/// Refuses a parameter that a workflow does not have, before anything is sent.
pub(crate) fn refuse_unknown(definition: &Value, given: &Map<String, Value>) -> Outcome<()> {
    let declared = definition["parameters"].as_object();
    let known = |name: &str| declared.is_some_and(|declared| declared.contains_key(name));
    let Some(unknown) = given.keys().find(|name| !known(name)) else { return Ok(()) };
    let names = declared.into_iter().flatten().map(|(name, _)| name.as_str());
    let failure = Failure::usage(format!("the workflow has no parameter {unknown:?}"));
    let near = did_you_mean(unknown, names.clone());
    let all: Vec<_> = names.collect();
    Err(match (near.is_empty(), all.is_empty()) {
        (false, _) => failure.help(near),
        (true, false) => failure.help(format!("there are {}", all.join(", "))),
        (true, true) => failure.help("it has no parameters"),
    })
}
