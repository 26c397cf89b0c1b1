# Completion of foreguard for fish.
function __foreguard_candidates
  set -l words (commandline --cut-at-cursor --tokenize --current-process)
  set -l typed (commandline --cut-at-cursor --current-token)
  $words[1] completion words $words[2..] "$typed" 2>/dev/null
end
complete --command foreguard --no-files --arguments '(__foreguard_candidates)'
