{{- /* The configuration file: `config` and the apiservers. Other ones make other pods. */ -}}
{{- define "ringway.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- with .Values.apiServers -}}
{{- $_ := set $config "apiserver" . -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}
