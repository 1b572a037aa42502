local verb = verbs[ARGV[1]]
return verb(unpack(ARGV, 2, math.min(#ARGV, 12)))
