# Names on the server where they can stand; no file here is meant where a colon stands before any slash.
function __fish_ftc_names
    command ftc complete -- (commandline -cp | string collect) 2>/dev/null </dev/null
end
set -l verbs put get ls stat rm mv mkdir verify
complete -c ftc -n "__fish_ftc_using_subcommand $verbs" -a "(__fish_ftc_names)"
complete -c ftc -n "__fish_ftc_using_subcommand $verbs; and string match -qr '^[^/]*:' -- (commandline -ct)" -f
