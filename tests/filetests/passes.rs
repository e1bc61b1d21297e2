//! Passes over the text of a test, verified before the first and after each, and interpreted before and after all.

use superstep_ir::graph::Module;
use superstep_ir::text::{parse_module, print_module};
use superstep_ir::verify::verify_module;
use superstep_passes::pass::PassContext;
use superstep_passes::pass_by_name;

use crate::meaning;

/// The text of the module after the passes.
pub(crate) fn optimise(text: &str, passes: &[String]) -> Result<String, String> {
    let before = parse_module(text).map_err(|e| e.to_string())?;
    verify_module(&before).map_err(|e| format!("before all passes: {e}"))?;
    let mut after = before.clone();
    for name in passes {
        let pass = pass_by_name(name).ok_or_else(|| format!("there is no pass `{name}`"))?;
        for graph in &mut after.graphs {
            pass.run(graph, &mut PassContext::new())
                .map_err(|e| format!("{name}: {e}"))?;
        }
        verify_module(&after).map_err(|e| format!("after {name}: {e}"))?;
    }
    same_meaning(&before, &after)?;
    let result = print_module(&after);
    match parse_module(&result) {
        Ok(again) if again == after => Ok(result),
        Ok(_) => Err(format!("the result parses to something else:\n{result}")),
        Err(e) => Err(format!("the result does not parse: {e}\n{result}")),
    }
}

fn same_meaning(before: &Module, after: &Module) -> Result<(), String> {
    for (old, new) in before.graphs.iter().zip(&after.graphs) {
        meaning::compare(old, new).map_err(|e| format!("graph @{}: {e}", old.name))?;
    }
    Ok(())
}
