# Names on the server, else files.
_ftc_names() {
    local -a names
    names=(${(f)"$(command ftc complete -- "$ftc_line" 2>/dev/null </dev/null)"})
    if (( $#names )); then
        compadd -S '' -- ${(M)names:#*/}
        compadd -- ${names:#*/}
    elif [[ ${${ftc_line##* }%%/*} != *:* ]]; then
        _files
    fi
}
