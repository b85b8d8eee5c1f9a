//! Completions for bash, made from the definition of the command line.

use std::fmt::Write;

use clap::Command;

/// A script that completes verbs and long options.
pub fn bash(command: &Command) -> String {
    let mut cases = String::new();
    add_cases(command, &mut vec![], &mut cases);
    SCRIPT.replace("@CASES@", &cases)
}

/// The script but for its cases: it collects the verbs that are there already, and leaves the rest to them.
const SCRIPT: &str = r#"_tessera() {
    local word verbs="" i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case "$word" in -*) ;; *) verbs="$verbs $word" ;; esac
    done
    case "$verbs" in
@CASES@    *) COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")) ;;
    esac
}
complete -o default -F _tessera tessera
"#;

/// One case for each verb; the longest come first, because a case ends with whatever follows its verbs.
fn add_cases(command: &Command, verbs: &mut Vec<String>, cases: &mut String) {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        verbs.push(verb.get_name().into());
        add_cases(verb, verbs, cases);
        verbs.pop();
    }
    let names =
        command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(|verb| verb.get_name().to_owned());
    let options =
        command.get_arguments().filter(|option| !option.is_hide_set()).filter_map(clap::Arg::get_long);
    let words: Vec<String> = names.chain(options.map(|option| format!("--{option}"))).collect();
    let pattern = if verbs.is_empty() { "\"\"".to_owned() } else { format!("\" {}\"*", verbs.join(" ")) };
    // Writing to a String does not fail.
    let _infallible = writeln!(
        cases,
        "    {pattern}) COMPREPLY=($(compgen -W \"{}\" -- \"${{COMP_WORDS[COMP_CWORD]}}\")) ;;",
        words.join(" ")
    );
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn verbs_and_options_are_in_and_hidden_ones_are_not() {
        let script = super::bash(&super::super::args::Cli::command());
        assert!(
            script.contains("\" vcpu move\"*) ")
                && script.contains("--initramfs")
                && script.contains("node run list")
        );
        assert!(!script.contains("worker"));
    }
}
