<#
.SYNOPSIS
Gets this computer a certificate, joins the network with it, and keeps it new.

.DESCRIPTION
Run it once as administrator: powershell -ExecutionPolicy Bypass -File FILE
A scheduled task runs a copy of it that holds no secret, every day, to renew in time.
Windows PowerShell 5.1 and later.
#>
param(
    [ValidateSet('Enroll', 'Renew')]
    [string]$Action = 'Enroll',
    [switch]$Force,
    [switch]$NoTask
)

# @settings@

Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
[Net.ServicePointManager]::SecurityProtocol = [Net.SecurityProtocolType]::Tls12
$Folder = Join-Path $env:ProgramData ('tmad\' + $Label)

function Invoke-Certreq {
    param([string[]]$Arguments)
    $said = & certreq.exe $Arguments 2>&1 | Out-String
    if ($LASTEXITCODE -ne 0) {
        throw ('certreq ' + $Arguments[0] + ' failed: ' + $said.Trim())
    }
}

function Import-Anchor {
    # A root is trusted; what lies between is only found.
    foreach ($text in $Anchors) {
        $body = ($text -replace '-----[A-Z ]+-----', '') -replace '\s', ''
        $octets = [Convert]::FromBase64String($body)
        $certificate = New-Object Security.Cryptography.X509Certificates.X509Certificate2 -ArgumentList @(, $octets)
        $place = 'CA'
        if ($certificate.Subject -eq $certificate.Issuer) {
            $place = 'Root'
        }
        $store = New-Object Security.Cryptography.X509Certificates.X509Store -ArgumentList $place, 'LocalMachine'
        $store.Open('ReadWrite')
        try {
            $store.Add($certificate)
        } finally {
            $store.Close()
        }
    }
}

function Get-Own {
    # The newest certificate of this authority for this subject whose key is here.
    $now = Get-Date
    Get-ChildItem -Path Cert:\LocalMachine\My |
        Where-Object { $_.HasPrivateKey -and $_.NotAfter -gt $now } |
        Where-Object { $IssuerThumbprints -contains (Get-Issuer $_) } |
        Where-Object { $_.GetNameInfo('SimpleName', $false) -eq $CommonName } |
        Sort-Object -Property NotAfter -Descending |
        Select-Object -First 1
}

function Get-Issuer {
    param($Certificate)
    $chain = New-Object Security.Cryptography.X509Certificates.X509Chain
    $chain.ChainPolicy.RevocationMode = 'NoCheck'
    [void]$chain.Build($Certificate)
    if ($chain.ChainElements.Count -gt 1) {
        $chain.ChainElements[1].Certificate.Thumbprint
    }
}

function New-Request {
    $inf = Join-Path $Folder 'request.inf'
    $request = Join-Path $Folder 'request.req'
    Set-Content -LiteralPath $inf -Value $RequestText -Encoding Unicode
    Remove-Item -LiteralPath $request -ErrorAction SilentlyContinue
    Invoke-Certreq -Arguments @('-new', '-q', '-machine', $inf, $request)
    $request
}

function Send-Request {
    param([string]$Request, [string]$Address, $Certificate)
    $text = Get-Content -LiteralPath $Request -Raw
    $body = ($text -replace '-----[A-Z ]+-----', '') -replace '\s', ''
    $question = @{
        Uri = $Address
        Method = 'Post'
        Body = $body
        ContentType = 'application/pkcs10'
        Headers = @{ 'Content-Transfer-Encoding' = 'base64' }
        UseBasicParsing = $true
        TimeoutSec = 120
    }
    if ($Certificate) {
        $question['Certificate'] = $Certificate
    } else {
        $pair = [Text.Encoding]::UTF8.GetBytes($User + ':' + $Secret)
        $question['Headers']['Authorization'] = 'Basic ' + [Convert]::ToBase64String($pair)
    }
    $answer = Invoke-WebRequest @question
    if ($answer.StatusCode -eq 202) {
        throw 'somebody has to approve the request first; run this again later'
    }
    $encoded = [Text.Encoding]::ASCII.GetString($answer.RawContentStream.ToArray())
    $received = Join-Path $Folder 'answer.p7b'
    [IO.File]::WriteAllBytes($received, [Convert]::FromBase64String(($encoded -replace '\s', '')))
    Invoke-Certreq -Arguments @('-accept', '-q', '-machine', $received)
    Remove-Item -LiteralPath $received
}

function Add-Network {
    foreach ($network in $Networks) {
        $file = Join-Path $Folder 'network.xml'
        [IO.File]::WriteAllText($file, $network)
        $said = & netsh.exe wlan add profile ('filename=' + $file) user=all 2>&1 | Out-String
        if ($LASTEXITCODE -ne 0) {
            Write-Warning ('the network was not added: ' + $said.Trim())
        }
        Remove-Item -LiteralPath $file
    }
}

function Add-Task {
    # The copy that renews knows no secret.
    $copy = Join-Path $Folder 'renew.ps1'
    $lines = Get-Content -LiteralPath $PSCommandPath -Encoding UTF8
    $lines = $lines -replace '^\$Secret = .*$', '$Secret = '''''
    Set-Content -LiteralPath $copy -Value $lines -Encoding UTF8
    $command = '-NoProfile -NonInteractive -ExecutionPolicy Bypass -File "' + $copy + '" -Action Renew'
    $run = New-ScheduledTaskAction -Execute 'powershell.exe' -Argument $command
    $when = New-ScheduledTaskTrigger -Daily -At '09:00' -RandomDelay '06:00:00'
    $how = New-ScheduledTaskSettingsSet -StartWhenAvailable -RunOnlyIfNetworkAvailable
    $task = @{
        TaskName = 'tmad ' + $Label
        Description = $Title
        Action = $run
        Trigger = $when
        Settings = $how
        User = 'NT AUTHORITY\SYSTEM'
        RunLevel = 'Highest'
        Force = $true
    }
    [void](Register-ScheduledTask @task)
}

function Invoke-Enroll {
    if (-not $Secret -and $Way -eq 'est') {
        throw 'this file holds no secret: it renews, and does not enrol'
    }
    Import-Anchor
    if (Get-Own) {
        Write-Warning 'there is a certificate of this authority already'
    } elseif ($Way -eq 'est') {
        Send-Request -Request (New-Request) -Address ($Url + '/simpleenroll')
    } else {
        $arguments = @('-enroll', '-q', '-machine', '-PolicyServer', $Url)
        if ($Secret) {
            $arguments += @('-UserName', $User, '-p', $Secret)
        }
        Invoke-Certreq -Arguments ($arguments + $Template)
    }
    Add-Network
    if (-not $NoTask) {
        Add-Task
    }
}

function Invoke-Renew {
    $present = Get-Own
    if (-not $present) {
        throw 'there is no good certificate of this authority to renew'
    }
    if (-not $Force -and $present.NotAfter -gt (Get-Date).AddDays($RenewDays)) {
        return
    }
    if ($Way -eq 'est') {
        $address = $RenewalUrl + '/simplereenroll'
        Send-Request -Request (New-Request) -Address $address -Certificate $present
    } else {
        $serial = $present.SerialNumber
        Invoke-Certreq -Arguments @('-enroll', '-q', '-machine', '-PolicyServer', $Url, '-cert', $serial, 'renew')
    }
}

[void](New-Item -ItemType Directory -Force -Path $Folder)
if ($Action -eq 'Renew') {
    Invoke-Renew
} else {
    Invoke-Enroll
}
$own = Get-Own
if ($own) {
    Write-Output ($Title + ': ' + $own.Subject + ' until ' + $own.NotAfter.ToString('u'))
}
