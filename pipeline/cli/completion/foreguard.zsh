#compdef foreguard
# Completion of foreguard for zsh.
_foreguard() {
  local -a found
  found=("${(@f)$(${(e)~words[1]} completion words "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
  found=(${found:#}) # without the empty line of an empty answer
  compadd -S '' -- ${(M)found:#*[=./]}
  compadd -- ${found:#*[=./]}
}
compdef _foreguard foreguard
