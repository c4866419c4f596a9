//! `laneway-bench report`: reads what the other commands measured, or measures first, and writes
//! the page.

use std::path::{Path, PathBuf};

use crate::cli::{ReportArgs, RunArgs};
use crate::document::Document;
use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::{experiment, output, page};

/// Makes the page.
pub(crate) fn run(args: &ReportArgs) -> Result<(), BenchError> {
    let documents = if args.input.is_empty() { measure(args)? } else { read(&args.input)? };
    output::write(&args.output, &page::html(&documents))?;
    let mut written = vec![&args.output];
    if let Some(path) = &args.markdown {
        output::write(path, &page::markdown(&documents))?;
        written.push(path);
    }
    if let Some(path) = &args.json {
        let values = documents.iter().map(Document::to_value).collect::<Result<Vec<_>, _>>();
        let text = values.and_then(|values| serde_json::to_string_pretty(&values));
        let text = text.map_err(BenchError::json("the reports"))?;
        output::write(path, &text)?;
        written.push(path);
    }
    if let Some(folder) = &args.pictures {
        std::fs::create_dir_all(folder)
            .map_err(BenchError::io(format!("cannot make {}", folder.display())))?;
        for (name, picture) in page::pictures(&documents) {
            output::write(&folder.join(name), &picture)?;
        }
        written.push(folder);
    }
    let names: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
    output::print(&format!("wrote {}", names.join(", ")))
}

/// Reads reports; a file has one, or what `--json` of this command wrote.
fn read(paths: &[PathBuf]) -> Result<Vec<Document>, BenchError> {
    let mut documents = Vec::new();
    for path in paths {
        let what = format!("cannot read {}", path.display());
        let text = std::fs::read_to_string(path).map_err(BenchError::io(what))?;
        documents.extend(parse(path, &text)?);
    }
    Ok(documents)
}

fn parse(path: &Path, text: &str) -> Result<Vec<Document>, BenchError> {
    let wrong = |why| BenchError::Input { path: path.to_path_buf(), why };
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let several = match value {
        serde_json::Value::Array(several) => several,
        one => vec![one],
    };
    several.into_iter().map(|one| Document::from_value(one).map_err(wrong)).collect()
}

/// Measures what this build can: lanes, and their rivals if they are built in.
fn measure(args: &ReportArgs) -> Result<Vec<Document>, BenchError> {
    let interrupt = Interrupt::new()?;
    let run = RunArgs {
        quick: args.quick,
        rounds: args.rounds,
        seconds: args.seconds,
        ..RunArgs::default()
    };
    let lanes = Document::Lanes(Box::new(experiment::measure(&run, &interrupt)?));
    #[cfg(feature = "rivals")]
    {
        let compare = crate::cli::CompareArgs {
            quick: args.quick,
            rounds: args.rounds,
            seconds: args.seconds,
            ..crate::cli::CompareArgs::default()
        };
        let compared = crate::compare::measure(&compare, &interrupt)?;
        Ok(vec![lanes, Document::Lanes(Box::new(compared))])
    }
    #[cfg(not(feature = "rivals"))]
    Ok(vec![lanes])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::example;

    #[test]
    fn one_report_several_and_nonsense_are_told_apart() {
        let path = Path::new("a.json");
        let one = serde_json::to_string(&example()).unwrap();
        let expected = Document::Lanes(Box::new(example()));
        assert_eq!(parse(path, &one).unwrap(), [expected]);
        let two = serde_json::to_string(&[example(), example()]).unwrap();
        assert_eq!(parse(path, &two).unwrap().len(), 2);
        for wrong in ["", "{}", "[1]", "{\"version\": 7}"] {
            let error = parse(path, wrong).unwrap_err().to_string();
            assert!(error.contains("a.json"), "{wrong}: {error}");
        }
    }
}
